"""CMA-ES, an evolution strategy (Hansen, 2016): for many trials over several numbers."""

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, CmaEsSampler

from sft.errors import BadInput
from sft.sweeps.parameters import Space, is_ordered
from sft.sweeps.samplers.ordered import Ordered


def make(space: Space, seed: int) -> BaseSampler:
    """Raises `BadInput` if the space has no numbers.

    It has a state of its own, which starts afresh in a new process.
    """
    if all(isinstance(d, CategoricalDistribution) and not is_ordered(d) for d in space.values()):
        raise BadInput(
            "hydra.sweeper.sampler=cmaes: searches numbers, and the sweep has none; "
            "use tpe or grid."
        )
    return Ordered(
        space, lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False), seed
    )
