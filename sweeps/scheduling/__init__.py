"""Which trial trains next: a new one, or a paused one that is thawed."""
