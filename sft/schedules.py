"""Learning-rate schedules: a factor of the peak learning rate for every step."""

from __future__ import annotations

import math

NAMES = ("linear", "cosine", "constant")


def factor(schedule: str, step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """The factor at `step` (counted from 0) of `total_steps`.

    The first `warmup_steps` rise linearly and reach 1 at their end: (step + 1) / warmup_steps.
    After them, with p = (step - warmup_steps) / (total_steps - warmup_steps) in [0, 1):
    `linear` is 1 - p, `cosine` is (1 + cos(pi p)) / 2, `constant` is 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return (1.0 + math.cos(math.pi * progress)) / 2.0
    if schedule == "constant":
        return 1.0
    raise ValueError(f"schedule {schedule!r} is not one of {', '.join(NAMES)}")
