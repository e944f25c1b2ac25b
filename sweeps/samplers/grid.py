"""Every combination, each once."""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from sft.errors import BadInput
from sweeps.parameters import Space, combinations


def make(space: Space, seed: int) -> BaseSampler:
    """Draws nothing: `seed` has no effect. Raises `BadInput` if the space has no end."""
    points = combinations(space)
    if points is None:
        raise BadInput(
            "hydra.sweeper.sampler=grid: needs choices or ranges for every parameter, and at "
            "most 100,000 combinations; an interval has no end of values."
        )
    return Grid(points)


class Grid(BaseSampler):
    """Trial n is the n-th point, whatever process asks for it: any can go on with the grid."""

    def __init__(self, points: list[dict[str, Any]]):
        self.points = points

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
        return self.points[trial.number % len(self.points)][param_name]
