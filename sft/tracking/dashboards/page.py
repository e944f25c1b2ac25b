"""A run in a dashboard: what the dashboard is told of it, and what it has of it already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sft.files import replace_durably
from sft.record.metrics import NOT_METRICS, TRAINING_METRICS
from sft.tracking import values

if TYPE_CHECKING:
    from sft.hooks import Status
    from sft.record.checkpoints import CheckpointRecord

Row = tuple[int, int, dict[str, float]]
"""A step, milliseconds since 1970, and what was measured with so many updates applied."""


@dataclass(frozen=True)
class Told:
    """What a run is. Its parameters are the resolved settings, without secrets."""

    directory: Path
    name: str
    id: str
    """What the dashboard knows the run by: it stays when the run is resumed."""
    settings: Mapping[str, Any]
    tags: Mapping[str, str]
    """What the run belongs to: its sweep and trial, or the run that it reproduces."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting under its dotted name, and the tags."""
        return dict(values.flatten(self.settings)) | dict(self.tags)


@dataclass(frozen=True)
class End:
    """How a run ended."""

    status: Status
    reason: str | None
    """Its error, or why it ended early."""
    seconds: float
    """Since 1970."""


class Page(Protocol):
    """One run in a dashboard: all calls come from one thread, and any of them may raise.

    After an error, a new page of the same run begins, and is told again what was not confirmed.
    """

    def begin(self) -> bool:
        """Make the run, or take it up; whether all that was confirmed before is still there."""
        ...

    def rows(self, rows: list[Row]) -> bool:
        """Take `rows`; whether they are confirmed. If not, the end of `end` confirms them."""
        ...

    def table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        """Take a table that an evaluator produced at `step`."""
        ...

    def checkpoints(self, records: list[CheckpointRecord]) -> None:
        """Take the records that there are now, in place of those of before."""
        ...

    def end(self, end: End) -> None:
        """Take how the run ended, and wait until all is there."""
        ...


@dataclass
class Sent:
    """What of the measurements and tables a dashboard has."""

    trained: int = -1
    """The last step of which it has what training measured."""
    evaluated: dict[str, set[int]] = field(default_factory=dict)
    """The steps at which it has other metrics: these may arrive in any order."""
    tables: dict[str, int] = field(default_factory=dict)
    """How many lines it has of each file in tables/."""

    def missing(self, row: Row) -> Row | None:
        """What `row` has that was not sent; None if there is nothing."""
        step, timestamp, metrics = row
        new = {
            key: value
            for key, value in metrics.items()
            if key not in NOT_METRICS
            and isinstance(value, int | float)
            and (step > self.trained if _is_of_training(key) else step not in self._of(key))
        }
        return (step, timestamp, new) if new else None

    def add(self, rows: list[Row]) -> None:
        for step, _, metrics in rows:
            for key in metrics:
                if not _is_of_training(key):
                    self.evaluated.setdefault(key, set()).add(step)
            if any(map(_is_of_training, metrics)):
                self.trained = max(self.trained, step)

    def back_to(self, step: int) -> None:
        """Forget what lies beyond `step` updates: a run that resumes there measures it again."""
        self.trained = min(self.trained, step - 1)
        for steps in self.evaluated.values():
            steps -= {later for later in steps if later > step}

    def _of(self, key: str) -> set[int]:
        return self.evaluated.get(key, set())

    def to_json(self) -> dict[str, Any]:
        evaluated = {key: sorted(steps) for key, steps in self.evaluated.items()}
        return {"trained": self.trained, "evaluated": evaluated, "tables": self.tables}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Sent:
        evaluated = {key: set(steps) for key, steps in told["evaluated"].items()}
        return cls(told["trained"], evaluated, dict(told["tables"]))


def _is_of_training(metric: str) -> bool:
    return metric in TRAINING_METRICS or metric.startswith("train/")


@dataclass
class State:
    """NAME.json of a run directory: the run in the dashboard NAME, for the process that goes on."""

    file: Path
    id: str
    tags: dict[str, str] = field(default_factory=dict)
    ended: str | None = None
    """The status that the dashboard was told at the end; None: it was told of no end yet."""
    sent: Sent = field(default_factory=Sent)

    @classmethod
    def read(cls, file: Path) -> State | None:
        """That of `file`; None if there is none."""
        if not file.exists():
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        sent = Sent.from_json(told["sent"])
        return cls(file, told["id"], dict(told["tags"]), told["ended"], sent)

    def save(self) -> None:
        told = {"id": self.id, "ended": self.ended, "tags": self.tags, "sent": self.sent.to_json()}
        replace_durably(self.file, json.dumps(told) + "\n")
