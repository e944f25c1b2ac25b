"""From the peak down to 0, in a line: 1 - p."""

from __future__ import annotations

from dataclasses import dataclass

from sft.schedules.base import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """From the peak down to 0, in a line: 1 - p."""

    def shape(self, progress: float) -> float:
        return 1.0 - progress
