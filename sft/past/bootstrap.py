"""Whether two runs differ by more than the choice of held-out examples would explain.

Both were measured on the same examples, so that examples are drawn anew in pairs: a hard one is
hard for both. With n examples, an interval between quantiles a and 1 - a of the draws is too narrow
for few of them; here they are taken further out, at Phi(-sqrt(n / (n - 1)) t), with t the 0.975
quantile of Student's t with n - 1 degrees of freedom (the expanded percentile interval: Hesterberg,
What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015, section 3.5).
`benchmarks/intervals.py` measures how often the intervals hold the true difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from sft.past.uncertainty import Interval, t_quantile
from sft.record.examples import Examples

if TYPE_CHECKING:
    import numpy as np

DRAWS = 4000
AT_ONCE = 2_000_000
"""Numbers that are drawn at a time, which bounds memory."""
POWER = 1.96 + 0.84
"""Standard errors that a difference must have to be shown in four of five tries."""


def of_difference(ours: Sequence[Examples], theirs: Sequence[Examples], seed: int = 0) -> Interval:
    """The 95% interval of a metric's mean over the runs `ours` minus that over the runs `theirs`.

    The interval counts that other examples might have been held out, and nothing else. All of the
    runs are measured on the same examples, of which there are two or more.
    """
    import numpy as np

    count = len(ours[0].totals)
    generator = np.random.default_rng(seed)
    drawn = []
    for size in _blocks(count):
        chosen = generator.integers(0, count, size=(size, count))
        drawn.append(_mean(ours, chosen) - _mean(theirs, chosen))
    whole = np.arange(count)[None]
    middle = float((_mean(ours, whole) - _mean(theirs, whole))[0])
    out = NormalDist().cdf(-math.sqrt(count / (count - 1)) * t_quantile(count - 1))
    low, high = np.quantile(np.concatenate(drawn), [out, 1 - out])
    return Interval(middle, float(low), float(high))


def _blocks(count: int) -> list[int]:
    each = max(1, min(DRAWS, AT_ONCE // count))
    whole, rest = divmod(DRAWS, each)
    return [each] * whole + [rest] * bool(rest)


def _mean(runs: Sequence[Examples], chosen: np.ndarray) -> np.ndarray:
    """The mean over runs of the metric on the examples that each row of `chosen` names."""
    import numpy as np

    values = [
        np.asarray(run.totals)[chosen].sum(1) / np.asarray(run.weights)[chosen].sum(1)
        for run in runs
    ]
    return np.mean(values, axis=0)


def needed(interval: Interval, count: int) -> int | None:
    """About how many examples would show a difference of this size; None if there is none.

    Four times out of five: the interval of `count` examples shrinks as 1 / sqrt(examples).
    """
    if not interval.middle:
        return None
    error = (interval.high - interval.low) / 2 / 1.96
    return math.ceil(count * (POWER * error / interval.middle) ** 2)


def with_seeds(examples: Interval, seeds: Interval) -> Interval:
    """An interval that counts both: other examples, and other seeds of the runs.

    The two have nothing to do with each other, so their variances add up.
    """
    below = math.hypot(examples.middle - examples.low, seeds.middle - seeds.low)
    above = math.hypot(examples.high - examples.middle, seeds.high - seeds.middle)
    return Interval(examples.middle, examples.middle - below, examples.middle + above)
