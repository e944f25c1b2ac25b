"""Length and batch size of a run, and how they move its best learning rate.

The published runs have one length and one batch size. Three rules lead from theirs to another:

- batch size: as its square root, on the same data, for Adam (Malladi et al. 2022, "On the SDEs and
  Scaling Rules for Adaptive Gradient Algorithms");
- data: as its amount to the power of -0.32 (Bjorck et al. 2025, "Scaling Optimal LR Across Token
  Horizons", arXiv:2409.19913), found in pre-training;
- LoRA: its best rate is 10 times that of full fine-tuning, but 15 times in short runs of about a
  hundred steps (Schulman et al. 2025, "LoRA Without Regret").

None was found in runs like these, so the further away a run is, the less sure is its best rate.
"""

import math
from dataclasses import dataclass

BY_BATCH_SIZE, BY_DATA = 0.5, -0.32
SHORT_STEPS, SHORT_FACTOR = 100, 1.5
UNSURE = 0.1
"""Of the two exponents."""
FAR = 0.5
"""Decades: a best rate that is moved by more than three times is a guess alone."""


@dataclass(frozen=True)
class Setting:
    """What the runs of a model have in common beside their learning rate and rank."""

    batch_size: int
    """Sequences a step."""
    steps: int

    @property
    def shift(self) -> float:
        """Decades by which the best rate lies above that of a published run.

        >>> round(10 ** Setting(32, 4 * 780).shift, 3), round(10 ** Setting(8, 57).shift, 2)
        (0.5, 2.1)
        """
        batch, data = self._away()
        published = PUBLISHED.steps
        short = math.log(published / max(self.steps, 1)) / math.log(published / SHORT_STEPS)
        lora = math.log10(SHORT_FACTOR) * min(max(short, 0.0), 1.0)
        return BY_BATCH_SIZE * batch + BY_DATA * data + lora

    @property
    def spread(self) -> float:
        """Standard deviation of `shift`, decades."""
        return UNSURE * math.hypot(*self._away())

    @property
    def is_far(self) -> bool:
        """Whether the rules lead further than anything published bears out.

        >>> Setting(8, 100).is_far, Setting(1024, 10).is_far
        (False, True)
        """
        return abs(self.shift) > FAR

    def _away(self) -> tuple[float, float]:
        """Decades by which batch size and data differ from the published runs'."""
        batch = math.log10(self.batch_size / PUBLISHED.batch_size)
        return batch, batch + math.log10(max(self.steps, 1) / PUBLISHED.steps)


PUBLISHED = Setting(batch_size=128, steps=780)
"""Of every run in the packaged tables (with a linear decay)."""
