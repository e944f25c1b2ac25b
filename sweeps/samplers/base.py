"""What a sampler is to a sweep, and what several of them need."""

from collections.abc import Iterable
from typing import Protocol

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from sft.sweeps.parameters import Space

SURPLUS = "surplus"
"""The user attribute of a trial too many: two processes asked for the last one at once."""


class Make(Protocol):
    """Makes a sampler of a space. One of another kind is a file here and a line in `SAMPLERS`."""

    def __call__(self, space: Space, seed: int, /) -> BaseSampler:
        """A sampler whose draws depend on `seed` alone.

        Raises `BadInput` if it cannot search this space.
        """
        ...


def other_trials(study: Study, trial: FrozenTrial) -> list[FrozenTrial]:
    """All trials of a study but `trial`.

    Hyperband hides the trials of other brackets from samplers. They are here too: else each
    bracket would repeat what another one has tried.
    """
    everyone = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return [other for other in everyone if other.number != trial.number]


def place(number: int, trials: Iterable[FrozenTrial]) -> int:
    """The place of a trial among those that count: its number, but for surplus ones before it."""
    return number - sum(SURPLUS in t.user_attrs for t in trials if t.number < number)
