"""Several data sets at once: mixtures, and held-out sets by name."""
