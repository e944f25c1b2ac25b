"""Every combination, each once."""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from sft.errors import BadInput
from sft.sweeps.parameters import Space, combinations, stages
from sft.sweeps.samplers.base import place


def make(space: Space, seed: int) -> BaseSampler:
    """Draws nothing: `seed` has no effect. Raises `BadInput` if the space has no end."""
    if combinations(space) is None:
        raise BadInput(
            "hydra.sweeper.sampler=grid: needs choices or ranges for every parameter, and at "
            "most 100,000 combinations; an interval has no end of values."
        )
    return Grid(space)


class Grid(BaseSampler):
    """Trial n is the n-th point, whatever process asks for it: any can go on with the grid.

    Of a study that took a wider space the points of its former one come first.
    """

    def __init__(self, space: Space):
        self._space = space
        self._points: dict[int, list[dict[str, Any]]] = {}  # number of former spaces -> points

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        points = self._points_of(study)
        return points[place(trial.number, study.get_trials(deepcopy=False)) % len(points)][
            param_name
        ]

    def _points_of(self, study: Study) -> list[dict[str, Any]]:
        former = stages(study.user_attrs)[:-1]
        if len(former) not in self._points:
            # A space that was an interval once has no points of its own.
            every = [
                point for space in [*former, self._space] for point in combinations(space) or []
            ]
            found = {tuple(point[name] for name in self._space): point for point in every}
            self._points[len(former)] = list(found.values())
        return self._points[len(former)]
