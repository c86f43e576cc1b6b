"""From a model and a budget to a plan that was measured against the uniform bits that fit."""
