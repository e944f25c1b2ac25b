"""The training loop: plan, batches, steps, evaluations, saves, and every call of the SDK."""
