"""Optuna's samplers, made to see that choices such as ranks 4, 16 and 64 have an order."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from sft.errors import BadInput, nearest

NAMES = ("tpe", "gp", "random", "grid", "cmaes")
Space = dict[str, BaseDistribution]


def make(name: str, space: Space, seed: int) -> BaseSampler:
    """The sampler called `name`. Raises BadInput for an unknown one."""
    if name == "grid":
        return Grid(space)
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda s: optuna.samplers.TPESampler(seed=s, multivariate=True, constant_liar=True),
        "gp": lambda s: optuna.samplers.GPSampler(seed=s, n_startup_trials=5),
        "random": lambda s: optuna.samplers.RandomSampler(seed=s),
        "cmaes": lambda s: optuna.samplers.CmaEsSampler(seed=s, warn_independent_sampling=False),
    }
    if name not in makers:
        raise BadInput(
            f"hydra.sweeper.sampler={name}: expected one of {', '.join(NAMES)}"
            f"{nearest(name, list(NAMES))}."
        )
    if name == "cmaes" and all(isinstance(d, CategoricalDistribution) for d in space.values()):
        if not any(is_ordered(d) for d in space.values()):
            raise BadInput(
                "hydra.sweeper.sampler=cmaes: searches numbers, and the sweep has none; "
                "use tpe or grid."
            )
    return Ordered(space, makers[name], seed)


def is_ordered(distribution: BaseDistribution) -> bool:
    """True for choices that are all numbers."""
    return isinstance(distribution, CategoricalDistribution) and all(
        isinstance(choice, int | float) and not isinstance(choice, bool)
        for choice in distribution.choices
    )


def combinations(space: Space) -> list[dict[str, Any]] | None:
    """Every point of a space, the last parameter varying fastest; None where there is an
    interval of real numbers (or more than 100,000 points)."""
    values: list[list[Any]] = []
    for distribution in space.values():
        if isinstance(distribution, CategoricalDistribution):
            values.append(list(distribution.choices))
        elif distribution.step is not None and not getattr(distribution, "log", False):
            count = int(round((distribution.high - distribution.low) / distribution.step)) + 1
            if count > 100_000:
                return None
            values.append([distribution.low + i * distribution.step for i in range(count)])
        else:
            return None
    if math.prod(map(len, values)) > 100_000:
        return None
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def other_trials(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """All trials of a study but `trial`: also those of other brackets, which Hyperband hides from
    samplers, so that each bracket would repeat what another one has tried."""
    everyone = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return [other for other in everyone if other.number != trial.number]


class Grid(BaseSampler):
    """Trial n is the n-th combination, so that a grid can be continued by any process."""

    def __init__(self, space: Space):
        points = combinations(space)
        if points is None:
            raise BadInput(
                "hydra.sweeper.sampler=grid: needs choices or ranges for every parameter, and at "
                "most 100,000 combinations; an interval has no end of values."
            )
        self.points = points

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        return self.points[trial.number % len(self.points)][param_name]


class Ordered(BaseSampler):
    """Runs another sampler on a copy of the study in which ordered choices are whole numbers.

    The study itself keeps the values (rank 16, not its place in a list). The copy lives in
    memory, so what a sampler leaves there is never read back from a file. A proposal that was
    already tried is drawn again, since the same configuration gives the same numbers. Each
    trial's draws are seeded by (seed, trial number): a continued sweep goes on as it would have.
    CMA-ES, which alone has a state of its own, starts it afresh in a new process.

    Args:
        space: every parameter of the sweep.
        make: makes the sampler from a seed.
        seed: of the sweep.
    """

    ATTEMPTS = 20

    def __init__(self, space: Space, make: Callable[[int], BaseSampler], seed: int):
        self._space = space
        self._make = make
        self._seed = seed
        self._choices = {n: list(d.choices) for n, d in space.items() if is_ordered(d)}
        self._shadow_space = {
            name: IntDistribution(0, len(self._choices[name]) - 1) if name in self._choices else d
            for name, d in space.items()
        }
        self._shadow: Study | None = None
        self._numbers: dict[int, int] = {}  # trial number -> its number in the copy
        self._points = combinations(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space):
        others = other_trials(study, trial)
        shadow = self._synchronise(study, others)
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        shadow.sampler = self._make(seed)
        tried = [t.params for t in others if t.state != TrialState.WAITING and t.params]
        for _ in range(self.ATTEMPTS):
            asked = shadow.ask(self._shadow_space)
            values = self._real(asked.params)
            if values not in tried:
                self._numbers[trial.number] = asked.number
                return values
            shadow.tell(asked, state=TrialState.FAIL)
        return self._untried(tried, seed) or values

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        sampler = optuna.samplers.RandomSampler(seed=self._seed + trial.number)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _untried(self, tried: list[dict[str, Any]], seed: int) -> dict[str, Any] | None:
        left = [point for point in self._points or [] if point not in tried]
        return left[seed % len(left)] if left else None

    def _real(self, params: dict[str, Any]) -> dict[str, Any]:
        return {n: self._choices[n][v] if n in self._choices else v for n, v in params.items()}

    def _synchronise(self, study: Study, trials: list[FrozenTrial]) -> Study:
        if self._shadow is None:
            self._shadow = optuna.create_study(directions=study.directions)
        for trial in trials:
            if trial.state == TrialState.WAITING or not self._space.keys() <= trial.params.keys():
                continue
            if trial.number not in self._numbers:
                self._numbers[trial.number] = len(self._shadow.get_trials(deepcopy=False))
                self._shadow.add_trial(self._copy(trial))
            elif trial.state.is_finished():
                self._finish(self._shadow, self._numbers[trial.number], trial)
        return self._shadow

    def _copy(self, trial: FrozenTrial) -> FrozenTrial:
        params = {name: trial.params[name] for name in self._space}
        for name, choices in self._choices.items():
            params[name] = choices.index(params[name])
        return create_trial(
            state=trial.state,
            values=trial.values,
            params=params,
            distributions=self._shadow_space,
            intermediate_values=trial.intermediate_values,
        )

    @staticmethod
    def _finish(shadow: Study, number: int, trial: FrozenTrial) -> None:
        copy = shadow.get_trials(deepcopy=False)[number]
        if copy.state.is_finished():
            return
        running = optuna.trial.Trial(shadow, copy._trial_id)
        if len(shadow.directions) == 1:
            for step, value in trial.intermediate_values.items():
                running.report(value, step)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        shadow.tell(number, values, state=trial.state)
