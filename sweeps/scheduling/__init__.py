"""Which trial trains next: a new one, or a paused one that is thawed."""

NAMES = ("none", "freeze_thaw", "asha")
"""Of `hydra.sweeper.scheduler`; none: new trials alone, each to its end."""
