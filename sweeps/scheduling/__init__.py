"""Which trial trains next: a new one, or a paused one that is thawed."""

from sft.errors import not_one_of
from sweeps.scheduling.asha import Asha
from sweeps.scheduling.base import Scheduler

NAMES = ("none", "asha")


def make(name: str, seed: int) -> Scheduler | None:
    """The scheduler called `name`; None for `none`. Raises `BadInput`."""
    if name not in NAMES:
        raise not_one_of("hydra.sweeper.scheduler", name, NAMES)
    if name == "none":
        return None
    return Asha()
