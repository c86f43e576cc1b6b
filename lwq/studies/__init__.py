"""Experiments, their grids of parameters, forecasts, and the pool that runs them."""
