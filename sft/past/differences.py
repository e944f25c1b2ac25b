"""Runs against each other, metric by metric, each difference with how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sft.past import bootstrap
from sft.past.uncertainty import Interval
from sft.past.uncertainty import of_difference as over_seeds
from sft.record.examples import Examples


@dataclass(frozen=True)
class Measured:
    """Runs of one configuration, measured on the same examples."""

    label: str
    runs: Sequence[Examples]
    seeds: Sequence[tuple[str, ...]] = ()

    @property
    def value(self) -> float:
        return math.fsum(run.value for run in self.runs) / len(self.runs)


@dataclass(frozen=True)
class Difference:
    """One configuration minus another in a metric."""

    interval: Interval
    examples: int
    """How many both were measured on."""
    of_seeds: bool
    """Whether the interval counts chance between seeds, too."""
    same: bool
    """Every example has the same value in both."""

    @classmethod
    def between(cls, ours: Measured, theirs: Measured) -> Difference:
        """`ours` minus `theirs`, which are measured on the same examples, two or more."""
        interval = bootstrap.of_difference(ours.runs, theirs.runs)
        seeds = over_seeds(
            [run.value for run in ours.runs],
            [run.value for run in theirs.runs],
            paired=bool(ours.seeds) and ours.seeds == theirs.seeds,
        )
        if seeds is not None:
            of_shares = ours.runs[0].is_share
            interval = bootstrap.with_seeds(interval, seeds, of_shares=of_shares)
        same = not interval.middle and interval.low == interval.high
        return cls(interval, len(ours.runs[0].totals), seeds is not None, same)

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out that there is no difference."""
        return self.interval.low > 0 or self.interval.high < 0

    def words(self) -> str:
        """The difference in plain words.

        >>> Difference(Interval(-0.021, -0.03, -0.012), 48, False, False).words()
        'lower by 0.021 (0.012 to 0.030): real'
        >>> Difference(Interval(0.003, -0.007, 0.013), 48, False, False).words()
        'no difference that 48 examples can show (-0.007 to 0.013); about 1,100 would be needed...'
        """
        middle, low, high = self.interval.middle, self.interval.low, self.interval.high
        if self.same:
            return f"the same on each of {self.examples:,} examples"
        digits = min(6, max(1, math.ceil(0.7 - math.log10((high - low) / 2 or abs(middle)))))
        if not self.is_real:
            needed = bootstrap.needed(self.interval, self.examples)
            seeds = " and these seeds" if self.of_seeds else ""
            words = (
                f"no difference that {self.examples:,} examples{seeds} can show "
                f"({low:z.{digits}f} to {high:z.{digits}f})"
            )
            if needed is None or self.of_seeds:
                return words
            return f"{words}; about {_rounded(needed)} would be needed for this one"
        word = "lower" if middle < 0 else "higher"
        near, far = sorted((abs(low), abs(high)))
        return f"{word} by {abs(middle):.{digits}f} ({near:.{digits}f} to {far:.{digits}f}): real"


def _rounded(count: int) -> str:
    """To two digits: no more is known of it."""
    size = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // size) * size:,}"


def why_not(ours: Measured, theirs: Measured) -> str | None:
    """Why two configurations cannot be compared in a metric; None if they can."""
    runs = [*ours.runs, *theirs.runs]
    if len(digests := sorted({run.digest for run in runs})) > 1:
        or_else = "judged in another way" if runs[0].is_share else "on other tokens of them"
        return (
            f"not compared: they were measured on different examples, or {or_else} "
            f"({' and '.join(digest[:8] for digest in digests)})"
        )
    if (count := len(runs[0].totals)) < 2:
        what = "one example" if count else "no example"
        return f"not compared: they were measured on {what}, which says nothing of others"
    if any(not math.isfinite(total) for run in runs for total in run.totals):
        return "not compared: an example has a value that is not finite"
    return None
