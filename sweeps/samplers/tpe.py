"""The tree-structured Parzen estimator (Bergstra et al., 2011): the usual choice."""

from optuna.samplers import BaseSampler, TPESampler

from sft.sweeps.parameters import Space
from sft.sweeps.samplers.ordered import Ordered


def make(space: Space, seed: int) -> BaseSampler:
    """Draws parameters together; a running trial counts as a bad one: others keep off it."""
    return Ordered(
        space, lambda seed: TPESampler(seed=seed, multivariate=True, constant_liar=True), seed
    )
