"""`checkpoints.jsonl`: what was saved, and the rules for when to save.

A record means what it says: the service has confirmed the save and every step before it, all
their losses are finite, and `next_batch` of `epoch` is the batch that a resumed run trains first.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sft.files import json_lines, replace_durably

DIRECTIONS = ("minimize", "maximize")
"""What is better of a metric: less of it, or more."""


@dataclass
class CheckpointRecord:
    """One saved state of a run."""

    name: str
    step: int
    """Updates applied to the weights."""
    epoch: int
    next_batch: int
    """Index, within `epoch`, of the next batch to train."""
    tokens: int
    """Tokens trained on so far."""
    state_path: str
    """`tinker://RUN/weights/NAME`: weights and optimizer, to resume from."""
    sampler_path: str
    """`tinker://RUN/sampler_weights/NAME`: weights to sample from."""
    evaluation: dict[str, float] | None = None
    mlflow_model_id: str | None = None
    kind: str = "periodic"
    """`periodic`, `rolling`, `final` or `interrupted`."""
    timestamp: int = field(default_factory=lambda: int(time.time() * 1000))
    """When it was confirmed, milliseconds since 1970."""

    @property
    def final(self) -> bool:
        return self.kind == "final"


class CheckpointFile:
    """The records of one run directory, oldest first; every change is one atomic replace."""

    def __init__(self, path: Path):
        self.path = path
        self.records: list[CheckpointRecord] = read(path) if path.exists() else []

    def append(self, record: CheckpointRecord) -> None:
        """Add `record`, in place of one with the same name."""
        self.records = [old for old in self.records if old.name != record.name] + [record]
        self._write()

    def update(self) -> None:
        """Write again after a record was changed."""
        self._write()

    def remove(self, record: CheckpointRecord) -> None:
        self.records.remove(record)
        self._write()

    def _write(self) -> None:
        text = "".join(json.dumps(asdict(record)) + "\n" for record in self.records)
        replace_durably(self.path, text)


def read(path: Path) -> list[CheckpointRecord]:
    """The records in `path`. A last line that a crash cut short is passed over."""
    return [CheckpointRecord(**record) for record in json_lines(path)]


def best(
    records: list[CheckpointRecord], metric: str = "eval/nll", direction: str | None = "minimize"
) -> CheckpointRecord | None:
    """The record that is best in `metric`; of two equal ones the earlier; None without any."""
    values = [((r.evaluation or {}).get(metric, math.nan), r) for r in records]
    scored = [(value, record) for value, record in values if math.isfinite(value)]
    choose = min if direction == "minimize" else max
    return choose(scored, key=lambda pair: pair[0])[1] if scored else None


def best_of(records: list[CheckpointRecord], saved: Mapping[str, Any]) -> CheckpointRecord | None:
    """The record that is best in what the run of the saved config goes by."""
    return best(records, saved.get("metric", "eval/nll"), saved.get("direction", "minimize"))


@dataclass
class Cadence:
    """When to save, by steps, tokens and wall-clock; 0 switches a rule off."""

    save_every: int = 0
    save_every_tokens: int = 0
    save_every_seconds: float = 0.0
    rolling_save_every: int = 0
    _tokens_at_save: int = 0
    _time_at_save: float = field(default_factory=time.monotonic)

    def due(self, step: int, tokens: int) -> str | None:
        """The kind of checkpoint due with `step` updates applied, or None. Call once a step."""
        periodic = (
            (self.save_every and step % self.save_every == 0)
            or (self.save_every_tokens and tokens - self._tokens_at_save >= self.save_every_tokens)
            or (
                self.save_every_seconds
                and time.monotonic() - self._time_at_save >= self.save_every_seconds
            )
        )
        if periodic:
            self._tokens_at_save, self._time_at_save = tokens, time.monotonic()
            return "periodic"
        if self.rolling_save_every and step % self.rolling_save_every == 0:
            return "rolling"
        return None

    def resume(self, tokens: int) -> None:
        """Count tokens from `tokens` on: a checkpoint was just loaded."""
        self._tokens_at_save = tokens
