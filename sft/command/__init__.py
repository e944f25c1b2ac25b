"""What the commands share: bad input, signals, and starting a run from its settings."""
