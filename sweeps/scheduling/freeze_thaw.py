"""Freeze and thaw: the next tokens go where they most probably settle the sweep.

After Swersky et al. 2014, "Freeze-Thaw Bayesian Optimization". Final values of all trials and of
cells without one are drawn from `Extrapolation`. In each draw some trial or cell is the best, and a
choice gains what it would take off the regret of the best complete or running trial. A new trial or
a paused one is worth its expected gain for each token that it is expected to take: until its next
rung, and to the end only if it still promises something there (an index in the manner of Weitzman
1979, "Optimal Search for the Best Alternative", for a box that opens in several steps).
"""

import math
from collections.abc import Sequence

import numpy as np

from sweeps.scheduling.base import Limits, Start, Thaw, fresh, purse, tokens_to
from sweeps.scheduling.curves import Curve, State, next_rung
from sweeps.scheduling.extrapolation import Cell, Extrapolation, Prior

RATE, RANK = "lr", "lora.rank"
RUNGS = (0.125, 0.25, 0.5, 0.75, 1.0)
TOLERANCE = 0.003
"""Log value: as good as the best."""
MOST = 0.02
"""Log value: a regret above it is no worse than one of it."""
SETTLED = 0.02
"""A paused trial that less probably settles anything is not worth thawing."""
DRAWS = 300


class FreezeThaw:
    """Starts and thaws what promises most per token.

    Args:
        prior: of the excess over learning rate and rank.
        size: billions of parameters of the model, None if unknown.
        candidates: cells that new trials may have.
        fixed: the learning rate and the rank of all trials, if the sweep does not search them.
        seed: of the draws. A decision depends on it, the curves and the limits alone.
    """

    def __init__(
        self,
        prior: Prior,
        size: float | None,
        candidates: Sequence[Cell],
        seed: int,
        rungs: Sequence[float] = RUNGS,
        fixed: Cell = (1e-4, 32),
    ):
        self._fixed = fixed
        self.rungs = tuple(rungs)
        self._extrapolation = Extrapolation(prior, size)
        self._candidates = list(candidates)
        self._seed = seed

    def next(self, curves: Sequence[Curve], limits: Limits) -> Start | Thaw | None:
        money = purse(curves, limits, self.rungs)
        new = fresh(curves)
        may_start = len(curves) < limits.trials and money.pays(new, self.rungs[0])
        trials = [c for c in curves if c.state is not State.FAILED]
        tried = {self._cell(c) for c in curves}
        left = [c for c in self._candidates if c not in tried] if may_start else []
        paused = any(c.state is State.PAUSED for c in trials)
        if not trials or not (left or paused):
            return Start(self.rungs[0]) if may_start else None
        rng = np.random.default_rng([self._seed, *_fingerprint(curves)])
        cells = [self._cell(c) for c in trials]
        draws = self._extrapolation.draw(trials, cells, left, rng, DRAWS)
        gain, chance = gains(draws, [c.state in (State.COMPLETE, State.RUNNING) for c in trials])
        # As long as nothing is complete or under way, something must be.
        least = SETTLED if any(c.state is not State.PAUSED for c in trials) else 0.0
        choices: list[tuple[float, Start | Thaw]] = []
        for place, curve in enumerate([*trials, *(new for _ in left)]):
            rung, known = next_rung(curve, self.rungs), place < len(trials)
            if known and (curve.state is not State.PAUSED or chance[place] < least):
                continue
            if not money.pays(curve, rung):
                continue
            first, whole = tokens_to(curve, rung), tokens_to(curve, 1.0)
            index = gain[place] / (first + chance[place] * (whole - first))
            if known:
                choices.append((index, Thaw(curve.number, rung)))
            else:
                rate, rank = left[place - len(trials)]
                choices.append((index, Start(rung, {RATE: rate, RANK: rank})))
        if not choices:
            return Start(self.rungs[0]) if may_start else None
        return max(choices, key=lambda choice: choice[0])[1]

    def _cell(self, curve: Curve) -> Cell:
        rate, rank = (
            value if isinstance(value := curve.parameters.get(name), int | float) else fixed
            for name, fixed in zip((RATE, RANK), self._fixed, strict=True)
        )
        return float(rate), int(rank)


def gains(draws: np.ndarray, covered: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Of each column: the regret it takes off, and the probability that it settles something.

    Args:
        draws: [draws, n] final log values, of trials and then of cells without one.
        covered: [trials], True for those that are complete or under way.
    """
    excess = draws - draws.min(axis=1, keepdims=True)
    held = np.zeros(draws.shape[1], bool)
    held[: len(covered)] = covered
    now = excess[:, held].min(axis=1, initial=math.inf)[:, None]
    now = np.minimum(now, MOST)
    gain = np.maximum(0.0, now - np.maximum(excess, 0.0))
    gain[now[:, 0] <= TOLERANCE] *= 0.1
    gain[:, held] = 0.0
    chance = np.mean((gain > TOLERANCE / 3), axis=0)
    return gain.mean(axis=0), chance


def _fingerprint(curves: Sequence[Curve]) -> list[int]:
    """Whole numbers that change with every evaluation."""
    return [len(curves), sum(len(c.points) for c in curves)]
