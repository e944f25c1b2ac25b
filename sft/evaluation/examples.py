"""What a metric is made of: two numbers for each example, from which its uncertainty follows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Examples:
    """The examples of a metric, which is the sum of `totals` divided by the sum of `weights`.

    For NLL these are the nats and the trained tokens of each held-out sequence; for a share of
    right answers they are 1 or 0, and 1.
    """

    totals: Sequence[float] | np.ndarray
    weights: Sequence[float] | np.ndarray
    digest: str
    """Equal for the same examples in the same order: only then two evaluations are of one set."""

    @property
    def value(self) -> float:
        """The metric; NaN without examples."""
        weight = float(sum(self.weights))
        return float(sum(self.totals)) / weight if weight else math.nan

    def standard_error(self) -> float:
        """How far the metric may be from that of all such examples; NaN for fewer than two.

        Of a ratio of two sums over n examples drawn at random (Cochran, Sampling Techniques,
        1977, chapter 6): with r the metric, sqrt(n / (n - 1) * sum((total - r * weight)^2)) /
        sum(weights).

        >>> Examples([1, 0, 1, 1], [1, 1, 1, 1], "").standard_error()
        0.25
        """
        import numpy as np

        totals = np.asarray(self.totals, dtype=np.float64)
        weights = np.asarray(self.weights, dtype=np.float64)
        count, weight = len(totals), weights.sum()
        if count < 2 or not weight:
            return math.nan
        rest = totals - totals.sum() / weight * weights
        return float(np.sqrt(count / (count - 1) * (rest @ rest)) / weight)


def digest_of(examples: Iterable[object]) -> str:
    """A digest of `examples`, each of plain values, in their order.

    >>> digest_of([["1 + 1?", "2"]]) == digest_of([["1 + 1?", "3"]])
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for example in examples:
        digest.update(json.dumps(example, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def share_of(right: Sequence[bool], digest: str) -> Examples:
    """The examples of a share of right answers."""
    return Examples([float(one) for one in right], [1.0] * len(right), digest)
