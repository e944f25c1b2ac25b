"""Another sampler, made to see that choices such as ranks 4, 16 and 64 have an order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sft.sweeps.parameters import Space, combinations, is_ordered
from sft.sweeps.samplers.base import other_trials

ATTEMPTS = 20
"""Draws for one trial, if each gives what was tried before."""


class Ordered(BaseSampler):
    """Runs another sampler on a copy of the study in which ordered choices are whole numbers.

    The study itself keeps the values (rank 16, not its place in a list). The copy lives in
    memory, so what a sampler leaves there is never read back from a file. A proposal that was
    already tried is drawn again, since the same configuration gives the same numbers. Each
    trial's draws are seeded by (seed, trial number): a continued sweep goes on as it would have.

    Args:
        space: every parameter of the sweep.
        make: makes the sampler from a seed.
        seed: of the sweep.
    """

    def __init__(self, space: Space, make: Callable[[int], BaseSampler], seed: int):
        self._space = space
        self._make = make
        self._seed = seed
        self._choices = {
            name: list(distribution.choices)
            for name, distribution in space.items()
            if is_ordered(distribution)
        }
        places: Space = {
            name: IntDistribution(0, len(choices) - 1) for name, choices in self._choices.items()
        }
        self._shadow_space: dict[str, BaseDistribution] = {
            name: places.get(name, distribution) for name, distribution in space.items()
        }
        self._shadow: Study | None = None
        self._numbers: dict[int, int] = {}  # trial number -> its number in the copy
        self._points = combinations(space)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = other_trials(study, trial)
        shadow = self._synchronise(study, others)
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        shadow.sampler = self._make(seed)
        tried = [t.params for t in others if t.state != TrialState.WAITING and t.params]
        for _ in range(ATTEMPTS):
            asked = shadow.ask(self._shadow_space)
            values = self._real(asked.params)
            if values not in tried:
                self._numbers[trial.number] = asked.number
                return values
            shadow.tell(asked, state=TrialState.FAIL)
        return self._untried(tried, seed) or values

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = RandomSampler(seed=self._seed + trial.number)
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
        running = Trial(shadow, copy._trial_id)
        if len(shadow.directions) == 1:
            for step, value in trial.intermediate_values.items():
                running.report(value, step)
        values = trial.values if trial.state == TrialState.COMPLETE else None
        shadow.tell(number, values, state=trial.state)
