"""A Gaussian process: few trials, each chosen with much computing."""

from optuna.samplers import BaseSampler, GPSampler

from sft.sweeps.parameters import Space
from sft.sweeps.samplers.ordered import Ordered


def make(space: Space, seed: int) -> BaseSampler:
    """The first five trials are drawn at random."""
    return Ordered(space, lambda seed: GPSampler(seed=seed, n_startup_trials=5), seed)
