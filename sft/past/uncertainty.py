"""What a few repeats can tell: 95% intervals of a mean and of a difference of two means.

    >>> of_mean([0.50, 0.52, 0.51])
    Interval(middle=0.51, low=0.485..., high=0.534...)

All use Student's t (Student, 1908): with two or three repeats the normal distribution would promise
far too much. Two trials whose repeats had the same seeds are compared seed by seed. That takes out
what a seed does to both. Others are compared by Welch's test (Welch, 1947).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""0.975 quantiles of Student's t with 1, 2, … 30 degrees of freedom."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95% interval."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:z.4f} to {self.high:z.4f}"


def of_mean(values: Sequence[float]) -> Interval | None:
    """Of the mean of `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    return _interval(statistics.fmean(values), error, len(values) - 1)


def of_difference(a: Sequence[float], b: Sequence[float], *, paired: bool) -> Interval | None:
    """Of mean(a) - mean(b); None if either has fewer than two values.

    `paired`: value i of both comes from the same seed.
    """
    if min(len(a), len(b)) < 2:
        return None
    if paired:
        return of_mean([x - y for x, y in zip(a, b, strict=True)])
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    middle, variance = statistics.fmean(a) - statistics.fmean(b), sum(parts)
    if not variance:
        return Interval(middle, middle, middle)
    # Welch and Satterthwaite's degrees of freedom.
    below = sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True))
    return _interval(middle, math.sqrt(variance), variance**2 / below)


def _interval(middle: float, error: float, freedom: float) -> Interval:
    half = t_quantile(freedom) * error
    return Interval(middle, middle - half, middle + half)


def t_quantile(freedom: float) -> float:
    """The 0.975 quantile of Student's t; a fraction of a degree of freedom is not counted."""
    whole = max(1, int(freedom))
    if whole <= len(T_QUANTILES):
        return T_QUANTILES[whole - 1]
    return 1.95996 + 2.3723 / whole  # the first terms of its expansion in 1 / freedom
