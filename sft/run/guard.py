"""When a run is given up: its loss is not finite, or far above where it began."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Guard:
    """Watches `train/nll`, step by step, through all attempts at a run."""

    rise: float
    """Nats above the first step's that are too many."""
    steps: int
    """So many steps in a row; 0: never give a run up for this."""
    first: float | None = None
    above: int = 0

    def resume(self, first: float | None) -> None:
        """An attempt begins; `first` is the loss of the run's first step, if it was measured."""
        self.first, self.above = first, 0  # steps since the checkpoint are counted again

    def complaint(self, step: int, nll: float) -> str | None:
        """Why the run should end after `step`; None if it should go on. Call once a step."""
        if self.first is None:
            self.first = nll
        self.above = self.above + 1 if self.steps and nll > self.first + self.rise else 0
        if not math.isfinite(nll):
            return f"train/nll is {nll} at step {step}"
        if self.steps and self.above >= self.steps:
            return f"train/nll rose from {self.first:.3f} to {nll:.3f} at step {step}"
        return None
