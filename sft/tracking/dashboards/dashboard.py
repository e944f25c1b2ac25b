"""A dashboard as a tracker: the hook of a run, and what an ended run still has to send.

A dashboard needs a `Page` (`page.py`), a dataclass of the options that it takes, and a package.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.config.checking import check_fields
from sft.config.saved import from_saved, to_saved
from sft.errors import BadInput, nearest
from sft.files import read_yaml
from sft.hooks import BaseHook, Run, RunResult
from sft.record.rundir import read_facts
from sft.tracking.dashboards.outbox import Outbox, Parcel
from sft.tracking.dashboards.page import End, Page, State, Told
from sft.tracking.models import write_table

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.record.checkpoints import CheckpointRecord


@dataclass
class Dashboard:
    """The tracker that `tracking.also.NAME` chooses."""

    name: str
    """In the config; the package that has to be installed has it, too."""
    title: str
    options: type
    """The dataclass of its options. Raises `BadInput` for what can never work."""
    open: Callable[[Told, Any, Settings], Page]
    """The page of a run, given its options and settings. It imports the package: this may take
    seconds, and happens in the outbox's thread."""
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.title)

    def hook(self, settings: Settings, tags: Mapping[str, str]) -> PageHook | None:
        given = settings.tracking.also.get(self.name)
        if given is None:
            return None
        options = self._checked(given)
        return PageHook(self, tags, lambda told: self.open(told, options, settings))

    def flush(self, timeout: float) -> list[str]:
        return self.outbox.flush(timeout)

    def sync(self, directory: Path, uri: str | None = None) -> bool:
        state, facts = State.read(self.state_file(directory)), read_facts(directory)
        status = facts.get("status", "KILLED")
        if state is None or state.ended == status:
            return False
        file = directory / "config.yaml"
        settings = from_saved(read_yaml(file), str(file))
        options = self._checked(settings.tracking.also.get(self.name, {}))
        name = facts.get("name") or directory.name
        told = Told(directory, name, state.id, to_saved(settings), state.tags)
        parcel = Parcel(told, state, lambda told: self.open(told, options, settings))
        reason = facts.get("error") or facts.get("reason")
        parcel.end = End(status, reason, facts.get("ended") or time.time())
        self.outbox.add(parcel)
        return True

    def state_file(self, directory: Path) -> Path:
        return directory / f"{self.name}.json"

    def _checked(self, given: Mapping[str, Any]) -> Any:
        """The options. Raises `BadInput` for those that there are not, or without the package."""
        key = f"tracking.also.{self.name}"
        takes = [item.name for item in dataclasses.fields(self.options)]
        for name in given:
            if name not in takes:
                what = f"takes {', '.join(takes)}" if takes else "takes no options"
                raise BadInput(f"{key}.{name}: {self.title} {what}{nearest(name, takes)}")
        options = self.options(**check_fields(self.options, dict(given), f"{key}."))
        package = importlib.util.find_spec(self.name)
        if package is None or package.origin is None:  # or only a folder of that name lies here
            raise BadInput(
                f"{key}: {self.title} is not installed; pip install {self.name}, or leave it out "
                "of tracking"
            )
        return options


class PageHook(BaseHook):
    """Tells a dashboard of one run, by its outbox."""

    def __init__(
        self, dashboard: Dashboard, tags: Mapping[str, str], open: Callable[[Told], Page]
    ) -> None:
        self.dashboard, self.tags, self._open = dashboard, dict(tags), open
        self._parcel: Parcel | None = None

    def on_start(self, run: Run) -> None:
        file = self.dashboard.state_file(run.directory)
        state = self.dashboard.outbox.state_of(run.directory) or State.read(file)
        state = state or State(file, uuid.uuid4().hex[:12])
        state.tags, state.ended = self.tags, None
        state.save()
        told = Told(run.directory, run.name, state.id, run.settings, self.tags)
        self._parcel = Parcel(told, state, self._open, resumed_at=run.start_step)
        self.dashboard.outbox.add(self._parcel)

    def on_metrics(self, step: int, metrics: dict[str, float], timestamp_ms: int) -> None:
        if self._parcel:
            self._parcel.add((step, timestamp_ms, dict(metrics)))
            self.dashboard.outbox.wake()

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        if self._parcel:
            self._parcel.new_checkpoints = True
            self.dashboard.outbox.wake()

    def on_table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        if self._parcel:
            write_table(self._parcel.told.directory, name, step, rows)
            self._parcel.new_tables = True
            self.dashboard.outbox.wake()

    def on_end(self, result: RunResult) -> None:
        if self._parcel:
            self._parcel.new_checkpoints = self._parcel.new_tables = True
            self._parcel.end = End(result.status, result.error or result.reason, time.time())
            self.dashboard.outbox.wake()
