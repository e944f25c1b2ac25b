"""Whether two runs differ by more than the choice of held-out examples would explain.

Both were measured on the same examples, so that examples are drawn anew in pairs: a hard one is
hard for both. The difference of the metrics, divided by its standard error, is compared with what
that quotient is in the draws, in both directions alike (the symmetric studentised bootstrap: Hall,
The Bootstrap and Edgeworth Expansion, 1992, section 3.6), and with Student's t, whichever promises
less: of few answers that are right or wrong, draws may hardly vary. `benchmarks/intervals.py`
measures how often the intervals hold the true difference, and that they know nothing of outliers
too rare to be among the examples. Of right and wrong answers a difference
also has to pass the exact test of signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

    It counts that other examples might have been held out, and nothing else. All of the runs are
    measured on the same examples, of which there are two or more. Of shares it lies in [-1, 1].
    """
    found = _of_difference(ours, theirs, seed)
    return _of_shares(found) if ours[0].is_share else found


def _of_shares(interval: Interval) -> Interval:
    """No two shares differ by more than 1."""
    return Interval(interval.middle, max(interval.low, -1.0), min(interval.high, 1.0))


def _of_difference(ours: Sequence[Examples], theirs: Sequence[Examples], seed: int) -> Interval:
    import numpy as np

    # The same examples have the same weights: a mean of ratios is the ratio of the mean totals.
    weights = np.asarray(ours[0].weights, dtype=np.float64)
    change = _mean_totals(ours) - _mean_totals(theirs)
    products = np.stack([change, weights, change**2, change * weights, weights**2], axis=1)
    ((middle, error),) = _differences(np.ones((1, len(change))), products)
    middle, error = float(middle), float(error)
    if not error:
        return Interval(middle, middle, middle) if not middle else _signed(middle, 0.0, change)
    generator = np.random.default_rng(seed)
    drawn = [_differences(counts, products) for counts in _counts(generator, len(change))]
    found, errors = np.concatenate(drawn).T
    # A draw of one example again and again has no error: it says nothing.
    quotients = np.abs(found - middle)[errors > 0] / errors[errors > 0]
    width = max(float(np.quantile(quotients, 0.95)), t_quantile(len(change) - 1)) * error
    if set(np.unique(change)) <= {-1.0, 0.0, 1.0}:
        return _signed(middle, width, change)
    return Interval(middle, middle - width, middle + width)


def _signed(middle: float, width: float, change: np.ndarray) -> Interval:
    """The interval of right or wrong answers, or of examples that all change alike.

    There the spread of few examples says little, so the exact test of signs has to agree that
    there is a difference (McNemar's: those that changed went one way or the other by chance).
    """
    up, down = int((change > 0).sum()), int((change < 0).sum())
    total = up + down
    tail = sum(math.comb(total, k) for k in range(min(up, down) + 1)) / 2**total
    low, high = middle - width, middle + width
    if 2 * tail >= 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return Interval(middle, low, high)


def _mean_totals(runs: Sequence[Examples]) -> np.ndarray:
    import numpy as np

    return np.mean(np.stack([np.asarray(run.totals, dtype=np.float64) for run in runs]), axis=0)


def _counts(generator: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """How often each of `count` examples is in each draw, in blocks [draws, count]."""
    import numpy as np

    size = max(1, min(DRAWS, AT_ONCE // count))
    for start in range(0, DRAWS, size):
        draws = min(size, DRAWS - start)
        chosen = generator.integers(0, count, (draws, count)) + np.arange(draws)[:, None] * count
        yield np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count)


def _differences(counts: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Difference and standard error [draws, 2] of the examples as often as `counts` has them.

    As in `Examples.standard_error`; the sum of squares is multiplied out.
    """
    import numpy as np

    count = counts.shape[1]
    change, weight, change2, both, weight2 = (counts @ products).T
    ratio = change / weight
    squares = np.maximum(0.0, change2 - 2 * ratio * both + ratio**2 * weight2)
    return np.stack([ratio, np.sqrt(count / (count - 1) * squares) / weight], axis=1)


def needed(interval: Interval, count: int) -> int | None:
    """About how many examples would show a difference of this size; None if there is none.

    Four times out of five: the interval of `count` examples shrinks as 1 / sqrt(examples).
    """
    if not interval.middle:
        return None
    error = (interval.high - interval.low) / 2 / 1.96
    return math.ceil(count * (POWER * error / interval.middle) ** 2)


def with_seeds(examples: Interval, seeds: Interval, *, of_shares: bool) -> Interval:
    """An interval that counts both: other examples, and other seeds of the runs.

    The two have nothing to do with each other, so their variances add up. `of_shares`: of the
    difference of two shares.
    """
    below = math.hypot(examples.middle - examples.low, seeds.middle - seeds.low)
    above = math.hypot(examples.high - examples.middle, seeds.high - seeds.middle)
    both = Interval(examples.middle, examples.middle - below, examples.middle + above)
    return _of_shares(both) if of_shares else both
