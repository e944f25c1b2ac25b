"""Freeze and thaw: the next tokens go where they most probably settle the sweep.

After Swersky et al. 2014, "Freeze-Thaw Bayesian Optimization". Final values of all trials and of
cells without one are drawn from `Extrapolation`. A trial or a cell *settles* the sweep in a draw if
it ends as good as the best one there, and no complete or running trial does. What is worth most is
what most probably settles the sweep for each token that it takes:

- a paused trial takes its tokens to the end;
- a new trial takes those to its first rung, and the rest only if it still promises something
  there: its first rung tells more than any later one.

This is an index in the manner of Weitzman 1979, "Optimal Search for the Best Alternative", for
boxes that open in two steps.
"""

import math
from collections.abc import Sequence

import numpy as np

from sft.prior.published import Cell
from sft.sweeps.parameters import RANK, RATE
from sft.sweeps.scheduling.base import Limits, Start, Thaw, fresh, purse, tokens_to
from sft.sweeps.scheduling.curves import Curve, State, next_rung
from sft.sweeps.scheduling.extrapolation import Extrapolation, Surface

RUNGS = (0.15, 0.4, 0.7, 1.0)
TOLERANCE = 0.003
"""Log value: as good as the best."""
SETTLED = 0.002
"""What less probably settles the sweep is not worth its tokens: neither a thaw nor a new trial."""
DRAWS = 1000
MOST_TRIALS, MOST_CANDIDATES = 48, 48
"""That one decision looks at: its time grows with the cube of them."""


class FreezeThaw:
    """Starts and thaws what most probably settles the sweep per token.

    A new trial gets the learning rate and the rank that promise most, but for the first one, which
    is the sampler's: its first guess. Once every candidate was tried, new trials are the sampler's
    again, as they always are without candidates. A sweep ends before all its trials are started if
    no candidate is likely enough to settle anything.

    Args:
        surface: what is published of the excess over learning rate and rank.
        candidates: cells that new trials may have.
        fixed: the learning rate and the rank of all trials, if the sweep does not search them.
        seed: of the draws. A decision depends on it, the curves and the limits alone.
        rungs: fractions of a trial's schedule, rising to 1. Best where there are evaluations: a
            trial pauses at its first one at a rung or behind it.
    """

    def __init__(
        self,
        surface: Surface,
        candidates: Sequence[Cell],
        seed: int,
        rungs: Sequence[float] = RUNGS,
        fixed: Cell = (1e-4, 32),
    ):
        self._fixed = fixed
        self.rungs = tuple(rungs)
        if not rungs or self.rungs[-1] != 1 or list(rungs) != sorted({r for r in rungs if r > 0}):
            raise ValueError(f"rungs={self.rungs}: expected fractions above 0 that rise to 1.")
        self._extrapolation = Extrapolation(surface)
        self._candidates = list(dict.fromkeys(candidates))
        self._seed = seed

    def next(self, curves: Sequence[Curve], limits: Limits) -> Start | Thaw | None:
        money = purse(curves, limits, self.rungs)
        new = fresh(curves, limits)
        may_start = len(curves) < limits.trials and money.pays(new, self.rungs[0])
        trials = notable([c for c in curves if c.state is not State.FAILED], self.rungs[0])
        # Whole numbers that change with every trial and evaluation.
        rng = np.random.default_rng([self._seed, len(curves), sum(len(c.points) for c in curves)])
        left = self._left(curves, rng) if may_start else []
        if trials and (left or any(c.state is State.PAUSED for c in trials)):
            chance, excess = self._settling(trials, left, rng)
            # As long as nothing is complete or under way, something must be.
            least = SETTLED if any(c.state is not State.PAUSED for c in trials) else 0.0
            choices: list[tuple[float, float, Start | Thaw]] = []
            for place, curve in enumerate(trials):
                rung = next_rung(curve, self.rungs)
                if curve.state is State.PAUSED and chance[place] >= least:
                    if money.pays(curve, rung):
                        index = chance[place] / tokens_to(curve, 1.0)
                        choices.append((index, -excess[place], Thaw(curve.number, rung)))
            first, whole = tokens_to(new, self.rungs[0]), tokens_to(new, 1.0)
            for place, (rate, rank) in enumerate(left, start=len(trials)):
                if chance[place] >= least:
                    index = chance[place] / (first + chance[place] * (whole - first))
                    start = Start(self.rungs[0], {RATE: rate, RANK: rank})
                    choices.append((index, -excess[place], start))
            if choices:
                return max(choices, key=lambda choice: choice[:2])[2]
            if left:
                return None
        return Start(self.rungs[0]) if may_start else None

    def _left(self, curves: Sequence[Curve], rng: np.random.Generator) -> list[Cell]:
        """Candidates not tried yet; of very many, some at random."""
        tried = {self._cell(c) for c in curves}
        left = [c for c in self._candidates if c not in tried]
        if len(left) <= MOST_CANDIDATES:
            return left
        return [left[i] for i in rng.choice(len(left), MOST_CANDIDATES, replace=False)]

    def _settling(
        self, trials: Sequence[Curve], left: Sequence[Cell], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """[trials + left]: how probably each settles the sweep, and its expected log excess."""
        cells = [self._cell(c) for c in trials]
        draws = self._extrapolation.draw(trials, cells, left, rng, DRAWS)
        covered = np.zeros(len(trials) + len(left), bool)
        covered[: len(trials)] = [c.state in (State.COMPLETE, State.RUNNING) for c in trials]
        return chances(draws, covered), (draws - draws.min(axis=1, keepdims=True)).mean(axis=0)

    def _cell(self, curve: Curve) -> Cell:
        rate, rank = (
            value if isinstance(value := curve.parameters.get(name), int | float) else fixed
            for name, fixed in zip((RATE, RANK), self._fixed, strict=True)
        )
        return float(rate), int(rank)


def notable(trials: Sequence[Curve], rung: float) -> list[Curve]:
    """The trials that a decision looks at: of very many, the best complete ones and the best others
    at their first rung."""
    if len(trials) <= MOST_TRIALS:
        return list(trials)
    ended = [c for c in trials if c.final is not None]
    others = [c for c in trials if c.final is None]
    ended.sort(key=lambda c: (c.final, c.number))
    early = {c.number: c.reached(rung) for c in others}
    others.sort(
        key=lambda c: (
            c.state is not State.RUNNING,
            c.state is State.DIVERGED,
            math.inf if early[c.number] is None else early[c.number],
            c.number,
        )
    )
    kept = ended[: MOST_TRIALS // 2]
    kept += others[: MOST_TRIALS - len(kept)]
    return sorted(kept, key=lambda c: c.number)


def chances(draws: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """[n]: the probability that a trial ends as good as the best one, and no covered one does.

    Args:
        draws: [draws, n] final log values.
        covered: [n], True for trials that are complete or under way.
    """
    good = draws <= draws.min(axis=1, keepdims=True) + TOLERANCE
    return (good & ~good[:, covered].any(axis=1, keepdims=True)).mean(axis=0)
