"""Who proposes the values of the next trial."""

from optuna.samplers import BaseSampler

from sft.errors import BadInput, nearest
from sft.sweeps.parameters import Space
from sft.sweeps.samplers import cmaes, gp, grid, random, tpe
from sft.sweeps.samplers.base import Make

SAMPLERS: dict[str, Make] = {
    "tpe": tpe.make,
    "gp": gp.make,
    "random": random.make,
    "grid": grid.make,
    "cmaes": cmaes.make,
}
"""By the name that `hydra.sweeper.sampler` knows them by."""


def make(name: str, space: Space, seed: int) -> BaseSampler:
    """The sampler called `name`.

    Raises `BadInput` for an unknown one, and for one that cannot search this space.
    """
    if name not in SAMPLERS:
        raise BadInput(
            f"hydra.sweeper.sampler={name}: expected one of {', '.join(SAMPLERS)}"
            f"{nearest(name, list(SAMPLERS))}."
        )
    return SAMPLERS[name](space, seed)
