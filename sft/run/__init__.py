"""The training loop: plan, batches, steps, evaluations, saves, and the calls of the SDK."""
