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

from sweeps.scheduling.base import Limits, Start, Thaw, fresh, purse
from sweeps.scheduling.curves import Curve, State


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
        if len(curves) < limits.trials and money.pays(fresh(curves), self.rungs[0]):
            return Start(self.rungs[0])
        if any(c.state in (State.RUNNING, State.COMPLETE) for c in curves):
            return None
        return self._one_at_least(curves)

    def _promotable(self, curves: Sequence[Curve], height: int) -> list[Curve]:
        """Paused trials of a rung that are among its best, best first."""
        reached = [(self._value(curve, height), curve.number, curve) for curve in curves]
        ranked = sorted((value, number, c) for value, number, c in reached if value is not None)
        best = [curve for _, _, curve in ranked[: len(ranked) // self._reduction]]
        return [c for c in best if c.state is State.PAUSED and self._height(c) == height]

    def _value(self, curve: Curve, height: int) -> float | None:
        """At a rung; a diverged trial counts as the worst of the first rung."""
        value = curve.reached(self.rungs[height])
        return math.inf if curve.state is State.DIVERGED and height == 0 else value

    def _height(self, curve: Curve) -> int:
        """The last rung that it has reached, -1 before the first."""
        return sum(curve.has_reached(rung) for rung in self.rungs) - 1

    def _one_at_least(self, curves: Sequence[Curve]) -> Thaw | None:
        """The leader of a sweep that is too small for the rule to bring a trial to the end."""
        paused = [c for c in curves if c.state is State.PAUSED]
        if not paused:
            return None
        top = max(self._height(c) for c in paused)
        leaders = [(self._value(c, top) or 0.0, c) for c in paused if self._height(c) == top]
        leader = min(leaders, key=lambda pair: (pair[0], pair[1].number))[1]
        return Thaw(leader.number, self.rungs[min(top + 1, len(self.rungs) - 1)])
