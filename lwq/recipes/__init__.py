"""From a model and a budget to a plan that was measured against uniform bits of its bytes."""
