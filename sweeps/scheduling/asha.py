"""Asynchronous successive halving in its promotion form.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2. Of the trials
that have reached a rung, the best one in `reduction` may train until the next; a free place goes to
such a trial on the highest rung that has one, else to a new trial. Nothing is ever waited for while
there are trials left to start, and no trial is ended that may yet belong to the best.

In Optuna's stopping form a trial that is not among the best *so far* is ended for good, and the
first to reach a rung always goes on.
"""

import math
from collections.abc import Sequence

from sft.sweeps.scheduling.base import Limits, Purse, Start, Thaw, fresh, purse
from sft.sweeps.scheduling.curves import Curve, State


class Asha:
    """Promotes the best one in `reduction` from each rung to the next.

    Args:
        first: the first rung, a fraction of a trial's schedule.
        reduction: one in so many is promoted; the next rung lies so many times further.

    >>> Asha().rungs
    (0.1111111111111111, 0.3333333333333333, 1.0)
    """

    def __init__(self, first: float = 1 / 9, reduction: int = 3):
        if not 0 < first < 1:
            raise ValueError(f"first={first}: expected a fraction between 0 and 1.")
        if reduction < 2:
            raise ValueError(f"reduction={reduction}: expected 2 or more.")
        self._reduction = reduction
        count = math.floor(math.log(1 / first, reduction) + 1e-9)
        below = (first * reduction**k for k in range(count + 1))
        self.rungs = (*(rung for rung in below if rung < 1 - 1e-9), 1.0)

    def next(self, curves: Sequence[Curve], limits: Limits) -> Start | Thaw | None:
        money = purse(curves, limits, self.rungs)
        for height in reversed(range(len(self.rungs) - 1)):
            for curve in self._promotable(curves, height):
                if money.pays(curve, self.rungs[height + 1]):
                    return Thaw(curve.number, self.rungs[height + 1])
        if len(curves) < limits.trials and money.pays(fresh(curves, limits), self.rungs[0]):
            return Start(self.rungs[0])
        if any(c.state is State.RUNNING for c in curves):
            return None
        return self._leader(curves, money)

    def _promotable(self, curves: Sequence[Curve], height: int) -> list[Curve]:
        """Paused trials of a rung that are among its best, best first."""
        reached = sum(self._value(curve, height) is not None for curve in curves)
        best = self._best(curves, height, reached // self._reduction)
        return [curve for curve in best if self._waits(curve, height)]

    def _best(self, curves: Sequence[Curve], height: int, many: int) -> list[Curve]:
        """The best so many of those that have reached a rung."""
        reached = [(self._value(curve, height), curve.number, curve) for curve in curves]
        ranked = sorted((value, number, c) for value, number, c in reached if value is not None)
        return [curve for _, _, curve in ranked[:many]]

    def _waits(self, curve: Curve, height: int) -> bool:
        return curve.state is State.PAUSED and self._height(curve) == height

    def _value(self, curve: Curve, height: int) -> float | None:
        """At a rung; a diverged trial counts as the worst of the first rung."""
        value = curve.reached(self.rungs[height])
        return math.inf if curve.state is State.DIVERGED and height == 0 else value

    def _height(self, curve: Curve) -> int:
        """The last rung that it has reached, -1 before the first."""
        return sum(curve.has_reached(rung) for rung in self.rungs) - 1

    def _leader(self, curves: Sequence[Curve], money: Purse) -> Thaw | None:
        """The best trial of a rung, if too few have reached it for the rule to promote one.

        So a small sweep brings a trial to its end, and ends none that nothing is ahead of.
        """
        for height in reversed(range(len(self.rungs) - 1)):
            for curve in self._best(curves, height, 1):
                if self._waits(curve, height) and money.pays(curve, self.rungs[height + 1]):
                    return Thaw(curve.number, self.rungs[height + 1])
        return None
