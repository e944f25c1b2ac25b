"""From the peak down to 0, along half a cosine: (1 + cos(pi p)) / 2."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sft.schedules.base import Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """From the peak down to 0, along half a cosine: (1 + cos(pi p)) / 2."""

    def shape(self, progress: float) -> float:
        return (1.0 + math.cos(math.pi * progress)) / 2.0
