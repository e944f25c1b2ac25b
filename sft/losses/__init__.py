"""What a step minimises."""

from sft.losses.base import Loss
from sft.losses.cross_entropy import CrossEntropy

LOSSES: dict[str, Loss] = {"cross_entropy": CrossEntropy()}
"""By the name that the key `loss` knows them by."""

__all__ = ["LOSSES", "Loss"]
