"""Where runs are shown beside their own directories: MLflow, and what is added to it.

A tracker is a class with `hook`, `flush` and `sync`, and a line in `TRACKERS`; one that shows runs
as pages of a dashboard is made of a `Page`, in a file of its own under `dashboards/`.
`tracking.also={NAME: {}}` chooses it, as a file conf/tracking/NAME.yaml does for `tracking=NAME`;
`tracking.also.NAME.OPTION=VALUE` says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sft.errors import BadInput, nearest
from sft.tracking.dashboards.tensorboard import TENSORBOARD
from sft.tracking.dashboards.trackio import TRACKIO
from sft.tracking.dashboards.wandb import WANDB
from sft.tracking.hook import Mlflow

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.hooks import Hook


class Tracker(Protocol):
    """A view of this process's runs."""

    title: str
    """Its name in messages."""

    def hook(self, settings: Settings, tags: Mapping[str, str]) -> Hook | None:
        """The hook of one run; None if `settings` do not ask for this tracker.

        Its options are `settings.tracking.also[NAME]`. `tags` say what the run belongs to: its
        sweep and trial, or the run that it reproduces. Nothing is sent before the hook's
        `on_start`. Raises `BadInput` for options that can never work.
        """
        ...

    def flush(self, timeout: float) -> list[str]:
        """Wait until all that the hooks of this process were told is sent, `timeout` seconds at
        most. Returns a sentence for each run that lacks something; none if there was no hook.
        """
        ...

    def sync(self, directory: Path, uri: str | None = None) -> bool:
        """Begin to send what is lacking of the ended run in `directory`; False if nothing is.

        `uri` replaces that of MLflow which the run recorded. Raises `BadInput` where it cannot be
        sent.
        """
        ...


MLFLOW = "mlflow"
TRACKERS: dict[str, Tracker] = {
    MLFLOW: Mlflow(),
    "tensorboard": TENSORBOARD,
    "trackio": TRACKIO,
    "wandb": WANDB,
}
"""By the name that `tracking.also` knows them by; MLflow has keys of its own."""


def hooks(settings: Settings, tags: Mapping[str, str]) -> list[Hook]:
    """A hook for each tracker that `settings` ask for. Raises `BadInput`."""
    known = [name for name in TRACKERS if name != MLFLOW]
    for name, options in settings.tracking.also.items():
        if name not in known:
            raise BadInput(
                f"tracking.also.{name}: there is no such tracker beside MLflow"
                f"{nearest(name, known)}"
            )
        if not isinstance(options, Mapping):
            raise BadInput(f"tracking.also.{name}: {options!r} is not a group of keys")
    made = (tracker.hook(settings, tags) for tracker in TRACKERS.values())
    return [hook for hook in made if hook is not None]


def flush(timeout: float = 30.0) -> list[str]:
    """Wait until every tracker has everything of this process, `timeout` seconds each at most.

    Returns a sentence for each run of which something could not be sent.
    """
    return [sentence for tracker in TRACKERS.values() for sentence in tracker.flush(timeout)]
