"""One run as MLflow is told of it: what it is, and what MLflow has of it already (mlflow.json)."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.files import replace_durably
from sft.secrets import identity, mask_urls

if TYPE_CHECKING:
    from sft.record.checkpoints import CheckpointRecord
    from sft.tracking.store import Store

STATE_FILE = "mlflow.json"


@dataclass
class TrackedRun:
    """A run directory and its run in the MLflow store."""

    directory: Path
    store: Store
    experiment: str
    name: str | None = None
    run_id: str | None = None
    new_key: str | None = None
    """What the store knows the run by, if the directory does not say; None: one of its own."""
    tags: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    resumed_at: int | None = None
    """The step that a resumed run went on from; None for a new run."""
    records: dict[str, CheckpointRecord] = field(default_factory=dict)
    """Checkpoint records of this process by name, to be told their MLflow model id."""
    state: dict[str, Any] = field(init=False)
    """What mlflow.json says: the run's key, ids and models."""

    def __post_init__(self) -> None:
        known = read_state(self.directory)
        if known.get("experiment") == self.experiment and self.run_id in (
            None,
            known.get("run_id"),
        ):
            self.state = known
            self.run_id = known.get("run_id")
            # It may be the same store elsewhere, moved together with its project: its runs tell.
            same = identity(known.get("uri") or "") == identity(self.store.uri)
            self.state["unsure"] = not same or known.get("unsure", False)
        else:
            key = self.new_key or uuid.uuid4().hex
            self.state = {"key": key, "run_id": self.run_id, "models": {}}
        self.state |= {"uri": mask_urls(self.store.uri), "experiment": self.experiment}

    def save(self, **changes: Any) -> None:
        """Remember `changes` in the run directory, for the process that goes on from here."""
        self.state |= changes
        replace_durably(self.directory / STATE_FILE, json.dumps(self.state, indent=2) + "\n")

    def facts_of_data(self) -> dict[str, Any]:
        """The facts that are in no other file of the run directory."""
        return {key: self.facts.get(key) for key in ("digest", "data", "held_out")}


def read_state(directory: Path) -> dict[str, Any]:
    """What mlflow.json of a run directory says; empty if there is none."""
    file = directory / STATE_FILE
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return state
