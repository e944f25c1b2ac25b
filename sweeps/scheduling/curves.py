"""What is known of the trials of a sweep: their learning curves and how they stand.

A point of a curve lies at a *fraction of the trial's own schedule*, counted in trained tokens: 0 is
before training, 1 is its end. Trials of other batch sizes or lengths are compared at the same
fraction. There the learning rate of each has decayed by as much, so each has as much of its decay's
gain still to come. At the same number of tokens a short trial would look better than a long one
only since it is further in its decay.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

WHOLE = 1 - 1e-9
"""A fraction from here on is the end of a schedule."""
ROUNDING = 0.5 + 1e-6
"""Tokens by which a point may lie before a rung that it stands on: tokens are whole numbers."""


class State(Enum):
    """How a trial stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    DIVERGED = "diverged"
    FAILED = "failed"
    """Failed or killed: it says nothing of its parameters."""


@dataclass(frozen=True)
class Point:
    """An evaluation."""

    tokens: int
    """Trained until then."""
    value: float
    """Of the metric, lower is better: a metric to be maximised comes with its sign changed. Of a
    trial with repeats it is their mean."""


@dataclass(frozen=True)
class Curve:
    """A trial."""

    number: int
    parameters: Mapping[str, object]
    points: tuple[Point, ...]
    """In the order of their tokens; without those that are not finite."""
    state: State
    whole: int
    """Tokens of the whole trial, of all its repeats."""
    steps: int = 0
    """Of the whole trial."""
    every: int = 0
    """Steps between two evaluations; 0: it is evaluated wherever a rung is."""

    @property
    def fraction(self) -> float:
        """Of its own schedule, at its last evaluation; 0 before the first."""
        if self.state is State.COMPLETE:
            return 1.0
        return self.points[-1].tokens / self.whole if self.points else 0.0

    @property
    def final(self) -> float | None:
        """The value of a complete trial."""
        return self.points[-1].value if self.state is State.COMPLETE and self.points else None

    def has_reached(self, rung: float) -> bool:
        """Whether it stands at a rung or behind it."""
        if self.state is State.COMPLETE:
            return True
        return bool(self.points) and self.points[-1].tokens >= rung * self.whole - ROUNDING

    def pauses_at(self, rung: float) -> float:
        """The fraction of its schedule until which it trains for a rung: to the evaluation there or
        behind it."""
        if not self.every:
            return rung
        return evaluation_behind(rung, self.steps, self.every) / self.steps

    def at(self, fraction: float) -> float | None:
        """Its value at a fraction of its schedule, on the line between two evaluations.

        None where it has not been yet. Before its first evaluation a value is not known either.
        """
        if not self.points or self.fraction < min(fraction, WHOLE):
            return None
        wanted, before = fraction * self.whole, None
        for point in self.points:
            if point.tokens >= wanted - 0.5:
                if before is None or point.tokens == before.tokens or before.tokens >= wanted:
                    return point.value if point.tokens <= wanted + 0.5 else None
                weight = min(1.0, (wanted - before.tokens) / (point.tokens - before.tokens))
                return before.value + weight * (point.value - before.value)
            before = point
        return self.points[-1].value  # complete, with fewer tokens than was thought

    def reached(self, rung: float) -> float | None:
        """Its value at its first evaluation at a rung or behind it; None before that."""
        if not self.has_reached(rung):
            return None
        values = (p.value for p in self.points if p.tokens >= rung * self.whole - ROUNDING)
        return next(values, self.points[-1].value if self.points else None)


def next_rung(curve: Curve, rungs: Sequence[float]) -> float:
    """The first of `rungs` that a curve has not reached; 1 behind the last."""
    return next((rung for rung in rungs if not curve.has_reached(rung)), 1.0)


def evaluation_behind(rung: float, steps: int, every: int) -> int:
    """The step of the first evaluation at a rung or behind it, of a trial of `steps` that is
    evaluated every `every` of them and at its end.

    >>> evaluation_behind(0.7, 30, 3), evaluation_behind(0.7, 30, 8), evaluation_behind(0.9, 30, 8)
    (21, 24, 30)
    """
    return min(steps, math.ceil(rung * steps / every - 1e-9) * every)


def spent(curves: Iterable[Curve], rungs: Sequence[float]) -> float:
    """Tokens trained, with those that running trials still train before they pause."""
    total = 0.0
    for curve in curves:
        reached: float = curve.points[-1].tokens if curve.points else 0
        if curve.state is State.RUNNING:
            reached = max(reached, curve.pauses_at(next_rung(curve, rungs)) * curve.whole)
        total += reached
    return total


def named(curves: Iterable[Curve]) -> Curve | None:
    """The trial that is the answer now: the best complete one.

    If none is complete, the best of those that are furthest in their schedules. None without a
    single evaluation.
    """
    alive = [c for c in curves if c.points and c.state not in (State.DIVERGED, State.FAILED)]
    return min(alive, key=lambda c: (-c.fraction, c.points[-1].value, c.number), default=None)
