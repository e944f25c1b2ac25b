"""What a scheduler is to a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sft.sweeps.scheduling.curves import Curve, State, next_rung, spent


@dataclass(frozen=True)
class Limits:
    """What a sweep may use."""

    trials: int
    """That it may start in all."""
    tokens: float | None = None
    """That it may train in all; None for as many as it takes."""
    new: Curve = Curve(0, {}, (), State.PAUSED, 1)
    """A trial of which nothing is known yet."""


@dataclass(frozen=True)
class Start:
    """Train a new trial until `rung`, a fraction of its own schedule, and pause it there."""

    rung: float
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Values that the scheduler wants for some parameters; the sampler draws the others."""


@dataclass(frozen=True)
class Thaw:
    """Train the paused trial `number` on until `rung`, a fraction of its own schedule."""

    number: int
    rung: float


class Scheduler(Protocol):
    """Gives each free place of a sweep to a new trial or to a paused one.

    A decision depends on the curves, the limits and the scheduler's own settings (a seed, for one)
    alone. So a sweep that was killed goes on as it would have, and several processes may share a
    study: all that they share is in the curves. The caller adds what it decides before it asks
    again: a started or thawed trial is in the curves as RUNNING.
    """

    rungs: tuple[float, ...]
    """Fractions of a trial's schedule at which it pauses, rising to 1."""

    def next(self, curves: Sequence[Curve], limits: Limits) -> Start | Thaw | None:
        """What to train on a free place.

        None if there is nothing to do before a running trial pauses or ends. If none is running,
        the sweep is over: what is still paused then is not worth its tokens, and ends.
        """
        ...


@dataclass(frozen=True)
class Purse:
    """What is left of a sweep's tokens.

    Until a trial is complete, it keeps back what the furthest one needs to its end: a sweep whose
    tokens are used up should have trained one trial to its end.
    """

    left: float
    kept: float

    def pays(self, curve: Curve, rung: float) -> bool:
        """Whether `curve` may train for `rung`, out of what is kept back if need be."""
        cost = tokens_to(curve, rung)
        rest = tokens_to(curve, 1.0) - cost
        return cost + min(rest, self.kept) <= self.left + 1e-6


def purse(curves: Sequence[Curve], limits: Limits, rungs: Sequence[float]) -> Purse:
    """What is left after `curves`."""
    if limits.tokens is None:
        return Purse(float("inf"), 0.0)
    alive = [c for c in curves if c.state in (State.PAUSED, State.RUNNING)]
    ended = any(c.state is State.COMPLETE for c in curves)

    def reaches(curve: Curve) -> float:
        running = curve.state is State.RUNNING
        return max(curve.fraction, curve.pauses_at(next_rung(curve, rungs)) if running else 0.0)

    needs = [(1 - reaches(c)) * c.whole for c in alive]
    return Purse(limits.tokens - spent(curves, rungs), 0.0 if ended or not needs else min(needs))


def tokens_to(curve: Curve, rung: float) -> float:
    """Tokens that a curve still trains for `rung`, until it pauses."""
    return max(0.0, curve.pauses_at(rung) - curve.fraction) * curve.whole


def fresh(curves: Sequence[Curve], limits: Limits) -> Curve:
    """A trial that is not started yet, as long as the longest of the others."""
    longest = max((limits.new, *curves), key=lambda curve: curve.whole)
    return replace(limits.new, whole=longest.whole, steps=longest.steps, every=longest.every)
