"""The run directory: metrics, checkpoints, and what a run was made with."""
