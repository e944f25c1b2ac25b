"""Sweeps with Optuna: every trial is the training loop of a single run."""
