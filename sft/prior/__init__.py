"""What published sweeps say of learning rate and rank before the first run."""
