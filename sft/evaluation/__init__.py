"""What a run measures beside training: held-out NLL and sampled answers."""
