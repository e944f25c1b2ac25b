"""Values drawn at random: what other samplers are measured against."""

from optuna.samplers import BaseSampler, RandomSampler

from sft.sweeps.parameters import Space
from sft.sweeps.samplers.ordered import Ordered


def make(space: Space, seed: int) -> BaseSampler:
    """Never draws a combination twice while there are others."""
    return Ordered(space, lambda seed: RandomSampler(seed=seed), seed)
