"""A plan in, losses out: apply, bank, store, evaluate, tasks, sweep, measured costs."""
