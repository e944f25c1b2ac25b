"""The peak to the end."""

from __future__ import annotations

from dataclasses import dataclass

from sft.schedules.base import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak to the end."""

    def shape(self, progress: float) -> float:
        return 1.0
