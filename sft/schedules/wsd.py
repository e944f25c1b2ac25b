"""The peak, and at the end a short decay to 0: warm-up, stable, decay (WSD).

Hu et al. 2024, "MiniCPM", section 4. The stable part is the same for every length, so one long run
gives the final values of several: `sft.fork RUN --from STEP max_steps=…` decays from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from sft.keys import key
from sft.schedules.base import Schedule


@dataclass(frozen=True)
class Wsd(Schedule):
    """The peak, then from it down to 0, in a line, over the last `decay` of the steps."""

    decay: float = key(
        0.2, "share of the steps behind the warm-up that go from the peak to 0", above=0, below=1
    )

    def shape(self, progress: float) -> float:
        return min(1.0, (1.0 - progress) / self.decay)
