"""Weights & Biases: every run is a run there, under an id of its own; trials of a sweep a group.

W&B's own files lie in the run directory, under wandb/. Offline they are all there is, and
`wandb sync` sends them.
"""

from __future__ import annotations

import netrc
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from sft.errors import BadInput
from sft.keys import key
from sft.tracking.dashboards.dashboard import Dashboard
from sft.tracking.dashboards.page import End, Row, Told

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.record.checkpoints import CheckpointRecord

KEY_VARIABLES = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
SECONDS = 15.0
"""Within which W&B has to answer when a run begins, and to have everything when it ends."""


@dataclass
class Options:
    """Raises `BadInput` where W&B would ask for a key: nobody is there to answer."""

    project: str | None = key(None, "WANDB_PROJECT where set, else tracking.experiment")
    entity: str | None = key(None, "user or team; null: WANDB_ENTITY, else as W&B has it")
    mode: str | None = key(
        None, "null: WANDB_MODE, else online", choices=("online", "offline", "disabled")
    )

    def __post_init__(self) -> None:
        self.project = self.project or os.environ.get("WANDB_PROJECT") or None
        self.mode = self.mode or os.environ.get("WANDB_MODE") or "online"
        if self.mode == "online" and not _has_key(os.environ):
            raise BadInput(
                "tracking.also.wandb: Weights & Biases has no API key; run `wandb login`, or set "
                "WANDB_API_KEY, or write to files alone with tracking.also.wandb.mode=offline"
            )


def _has_key(environment: Mapping[str, str]) -> bool:
    """Whether W&B finds a key: in a variable, or in the file that `wandb login` writes."""
    if any(environment.get(name) for name in KEY_VARIABLES):
        return True
    host = urlsplit(_address(environment)).hostname or ""
    named = environment.get("NETRC")
    files = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            if netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


_lost: dict[str, Exception] = {}
"""Runs, by their ids, that W&B's own process keeps open after an error: this process cannot begin
them again, and another one can."""


def _reach(address: str) -> None:
    """Raise `OSError` if nobody answers at `address`: W&B cannot try the same run twice."""
    try:
        urllib.request.urlopen(address, timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return  # an answer
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # W&B has certificates of its own
            raise OSError(f"{address}: {error.reason}") from error


def _address(environment: Mapping[str, str]) -> str:
    return environment.get("WANDB_BASE_URL") or "https://api.wandb.ai"


class WandbRun:
    """One run in W&B. Its points are drawn over `step`, so that they may come in any order."""

    def __init__(self, told: Told, options: Options, settings: Settings):
        self.told, self.options, self.settings = told, options, settings

    def begin(self) -> bool:
        if (error := _lost.get(self.told.id)) is not None:
            raise error
        if self.options.mode == "online":
            _reach(_address(os.environ))
        with self._or_lost():
            self._init()
        return True

    def _init(self) -> None:
        import wandb

        options, told = self.options, self.told
        wandb.setup(wandb.Settings(silent=True))  # it would say where it found its key
        self._run = wandb.init(
            project=options.project or self.settings.tracking.experiment,
            entity=options.entity,
            id=told.id,
            name=told.name,
            group=told.tags.get("sweep.study"),
            dir=str(told.directory.absolute()),
            config=dict(told.settings) | dict(told.tags),
            resume="allow",
            reinit="create_new",  # several runs live in one process
            mode=cast(Any, options.mode),  # one of W&B's own words
            settings=wandb.Settings(
                silent=True,
                console="off",  # several runs share one terminal
                save_code=False,
                init_timeout=SECONDS,
                finish_timeout=SECONDS,
                finish_timeout_raises=True,
                x_disable_stats=not self.settings.tracking.system_metrics,
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def rows(self, rows: list[Row]) -> bool:
        for step, timestamp, metrics in rows:
            self._run.log({"step": step, "_timestamp": timestamp / 1000, **metrics})
        return False

    def table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_cell(row.get(column)) for column in columns] for row in rows]
        self._run.log({"step": step, name: wandb.Table(columns=columns, data=cells)})

    def checkpoints(self, records: list[CheckpointRecord]) -> None:
        paths = {
            record.name: {
                "step": record.step,
                "state": record.state_path,
                "sampler": record.sampler_path,
            }
            for record in records
        }
        self._run.summary["checkpoints"] = paths

    def end(self, end: End) -> None:
        self._run.summary["status"] = end.status
        if end.reason:
            self._run.summary["reason"] = end.reason
        with self._or_lost():
            self._run.finish(exit_code=1 if end.status in ("FAILED", "KILLED") else 0)

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            _lost[self.told.id] = error
            raise


def _cell(value: Any) -> Any:
    """A value as a column of one type takes it: of W&B's tables, each has one."""
    return value if value is None or isinstance(value, int | float) else str(value)


WANDB = Dashboard("wandb", "Weights & Biases", Options, WandbRun)
