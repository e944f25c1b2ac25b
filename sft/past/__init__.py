"""Earlier runs: finding them, trusting their configs, comparing them."""
