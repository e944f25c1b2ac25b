"""An Optuna sampler whose first proposals come from published sweeps.

The first trial is the cell of least expected excess. Each next one is the cell that most probably
answers what a sweep asks: first for a trial within half a percent of the best, then for the
smallest rank that has one. After `PROPOSALS` trials, or once little is left to answer, another
sampler (`hydra.sweeper.sampler`) goes on from the trials there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sft.prior.names import size_of
from sft.prior.prior import Prior
from sft.prior.published import Cell
from sft.prior.setting import Setting
from sft.sweeps.parameters import RANK, RATE
from sft.sweeps.samplers.base import other_trials

TOLERANCE = 0.005  # log NLL: as good as the best
PROPOSALS = 10  # TPE, which goes on, starts from as many trials
SETTLED = 0.05  # a cell less likely than this to settle anything is not worth a trial
SURFACES = 400  # drawn from the posterior for each proposal


class WarmStart(BaseSampler):
    """Proposes learning rate and rank from `prior`, everything else (and later) from `base`.

    Args:
        base: sampler of the parameters that the prior knows nothing of, and of later trials.
        prior: the published knowledge.
        model: its name, which tells its size and family.
        setting: length and batch size of the trials.
        rank: the LoRA rank if the sweep does not search it.
        seed: of the draws. A proposal depends on it, the trial's number and the other trials.
        source: who published it; it is shown to the user.
    """

    def __init__(
        self,
        base: BaseSampler,
        prior: Prior,
        model: str,
        setting: Setting,
        rank: int,
        seed: int,
        source: str = "",
    ):
        self._source = source
        self._base = base
        self._prior = prior
        self._model = model
        self._setting = setting
        self._rank = rank
        self._seed = seed

    def reseed_rng(self) -> None:
        self._base.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._base.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values = self._base.sample_relative(study, trial, search_space)
        if RATE not in search_space or study.directions != [StudyDirection.MINIMIZE]:
            return values
        cell = self.propose(study, trial, search_space)
        if cell is not None:
            known = {RATE: cell[0], RANK: cell[1]}
            values = values | {name: known[name] for name in known if name in search_space}
        return values

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._base.after_trial(study, trial, state, values)

    def describe(self, space: Mapping[str, BaseDistribution]) -> list[str]:
        """What the prior holds before the first trial, in a line."""
        candidates = cells(space, self._rank)
        expected = self._prior.expected(candidates, self._model, self._setting)
        rate, rank = candidates[int(expected.argmin())]
        size = size_of(self._model) or "a size that its name does not tell"
        source = self._source.partition(",")[0]
        return [
            f"warm start: lr={rate:g}, rank {rank} first, by {source} for {size}; "
            "without: hydra.sweeper.warm_start=null"
        ]

    def propose(
        self, study: Study, trial: FrozenTrial, space: Mapping[str, BaseDistribution]
    ) -> Cell | None:
        """The cell for `trial`; None if the prior has nothing more to say."""
        known = self._known(other_trials(study, trial))
        started = len(known.finished) + len(known.running)
        if started >= PROPOSALS or any(nll <= 0 for _, nll in known.finished):
            return None
        candidates = cells(space, self._rank)
        covered = marks(candidates, [c for c, _ in known.finished] + known.running)
        excluded = covered | marks(candidates, known.excluded)
        if excluded.all():
            return None
        if not started:
            scores = -self._prior.expected(candidates, self._model, self._setting)
        else:
            rng = np.random.default_rng([self._seed, trial.number])
            surfaces = self._prior.sample(
                candidates, known.finished, self._model, rng, SURFACES, self._setting
            )
            scores = chances(surfaces, [rank for _, rank in candidates], covered)
            if scores[~excluded].max() < SETTLED:
                return None
        return candidates[int(np.where(excluded, -math.inf, scores).argmax())]

    def _known(self, trials: Sequence[FrozenTrial]) -> "_Known":
        known = _Known([], [], [])
        for trial in trials:
            rate = trial.params.get(RATE)
            if rate is None:
                continue
            cell = (float(rate), int(trial.params.get(RANK, self._rank)))
            if trial.state == TrialState.COMPLETE:
                known.finished.append((cell, trial.values[0]))
            elif trial.user_attrs.get("diverged"):
                known.finished.append((cell, math.inf))
            elif trial.state == TrialState.RUNNING:
                known.running.append(cell)
            else:  # failed, or pruned: a report from the middle of training is no final value
                known.excluded.append(cell)
        return known


@dataclass
class _Known:
    """What the other trials of a study say of the cells."""

    finished: list[tuple[Cell, float]]  # with the final NLL, inf if training diverged
    running: list[Cell]
    excluded: list[Cell]  # not to be proposed again, though nothing is known of them


def chances(surfaces: np.ndarray, ranks: Sequence[int], covered: np.ndarray) -> np.ndarray:
    """[cells]: the probability that a trial there settles what is not settled yet.

    Args:
        surfaces: [draws, cells] excess NLL, draws of the posterior.
        ranks: [cells].
        covered: [cells], True if a trial there is finished or under way.
    """
    good = surfaces <= surfaces.min(axis=1, keepdims=True) + TOLERANCE
    rank = np.asarray(ranks, float)
    smallest = np.where(good, rank, np.inf).min(axis=1, keepdims=True)
    frugal = good & (rank == smallest)
    has_good = good[:, covered].any(axis=1, keepdims=True)
    has_frugal = frugal[:, covered].any(axis=1, keepdims=True)
    return np.mean((good & ~has_good) | (frugal & has_good & ~has_frugal), axis=0)


def cells(
    space: Mapping[str, BaseDistribution], rank: int, rate: float | None = None
) -> list[Cell]:
    """The (rate, rank) pairs of `space` that a prior may propose; `rate` and `rank` are what it
    does not search.

    All of its choices; of an interval a grid on a log scale.
    """
    rates = _values(space[RATE], per_decade=10) if RATE in space else [rate or 0.0]
    ranks = _values(space[RANK], per_decade=1 / math.log10(2)) if RANK in space else [rank]
    return [(float(rate), int(rank)) for rank in ranks for rate in rates]


def marks(candidates: Sequence[Cell], tried: Sequence[Cell]) -> np.ndarray:
    """[candidates], True at the one closest (on log axes) to a tried cell."""
    points = np.log(candidates)
    marked = np.zeros(len(candidates), bool)
    for cell in tried:
        marked[np.abs(points - np.log(cell)).sum(axis=1).argmin()] = True
    return marked


def _values(distribution: BaseDistribution, per_decade: float) -> list[float]:
    if isinstance(distribution, CategoricalDistribution):
        choices: Sequence[Any] = distribution.choices
        return [float(choice) for choice in choices]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    first, last = math.ceil(per_decade * math.log10(low)), math.floor(per_decade * math.log10(high))
    # Preferred numbers (1, 1.3, 1.6, 2, … or the powers of two), as a person would write them.
    grid = [float(f"{10 ** (k / per_decade):.2g}") for k in range(first, last + 1)]
    values = {min(max(value, low), high) for value in [low, *grid, high]}
    if step is not None and (step != 1 or isinstance(distribution, IntDistribution)):
        values = {min(high, low + step * round((value - low) / step)) for value in values}
    return sorted(values)
