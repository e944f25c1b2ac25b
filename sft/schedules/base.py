"""What every schedule has: a warm-up, and a shape behind it."""

from __future__ import annotations

from dataclasses import dataclass

from sft.keys import key


@dataclass(frozen=True)
class Schedule:
    """A factor of the peak learning rate for every step; the fields are the keys of `schedule.*`.

    A schedule of another shape is a subclass in a file of its own and a line in `SCHEDULES`.
    """

    warmup_steps: int = key(0, "steps of linear warm-up", minimum=0)

    def factor(self, step: int, total_steps: int) -> float:
        """The factor at `step` (counted from 0) of `total_steps`.

        The first `warmup_steps` rise linearly and reach 1 at their end: (step + 1) / warmup_steps.
        What follows is `shape` of (step - warmup_steps) / (total_steps - warmup_steps).
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.shape((step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))

    def shape(self, progress: float) -> float:
        """The factor behind the warm-up, at `progress` in [0, 1)."""
        raise NotImplementedError
