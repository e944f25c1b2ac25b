"""The runs on this machine: all of them, a line of each, ending those whose process is gone."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.data_name import data_name
from sft.cost.meter import last as usage
from sft.cost.meter import spent, spent_in_words
from sft.errors import BadInput
from sft.files import read_yaml
from sft.record.durations import age
from sft.record.metrics import read
from sft.record.rundir import end, is_running, read_facts
from sft.tracking.values import flatten

FOLDER = Path("outputs")
COLUMNS = (
    *("status", "model", "data", "lr", "rank", "steps", "train/nll", "eval/nll", "usd", "age"),
    "path",
)
TIME = re.compile(r"^\d\d-\d\d-\d\d-")
"""Before the name of a run, in that of its directory."""


@dataclass
class Listed:
    """One run of the list."""

    directory: Path
    columns: dict[str, Any]
    """What the list shows: numbers as numbers, None for what is not known."""
    keys: dict[str, Any]
    """What else it is chosen and sorted by: its settings and the last value of each metric."""

    def get(self, key: str) -> Any:
        """The value of a column, a setting or a metric; None if the run has none."""
        return self.columns[key] if key in self.columns else self.keys.get(key)

    @property
    def cells(self) -> dict[str, str]:
        """The columns as text, in the order in which they are shown."""
        cells = {name: _shown(name, self.columns[name]) for name in COLUMNS}
        return cells | {"usd": spent_in_words(self.directory)}


def find_runs(folders: Sequence[Path]) -> Iterator[Path]:
    """The run directories in `folders`, themselves included: they hold config.yaml and run.json."""
    for folder in folders:
        for file in sorted(folder.rglob("run.json")):
            if (file.parent / "config.yaml").is_file():
                yield file.parent


def close(directory: Path) -> bool:
    """Record the run in `directory` as KILLED if its process ended without a word; whether it did.

    Raises nothing: a directory that cannot be written is left as it is.
    """

    try:
        facts = read_facts(directory)
        if facts.get("status") != "RUNNING" or is_running(directory):
            return False
        last = max(file.stat().st_mtime for file in directory.glob("*.json*"))
        reason = "its process ended without a word: a crash, SIGKILL or a power cut"
        end(directory, "KILLED", reason, last)
    except (OSError, ValueError) as error:
        print(f"{directory}: cannot be closed: {error}", file=sys.stderr)
        return False
    return True


def listed(directory: Path) -> Listed:
    """What the list says of the run in `directory`."""
    facts = read_facts(directory)
    try:
        saved = read_yaml(directory / "config.yaml")
    except BadInput:
        saved = {}
    last: dict[str, Any] = {}
    for row in read(directory / "metrics.jsonl"):
        last |= row
    settings = dict(flatten(saved))
    started = facts.get("started") or (directory / "config.yaml").stat().st_mtime
    model = settings.get("model.name")
    columns = {
        "name": TIME.sub("", directory.name),
        "status": facts.get("status"),
        "model": model and str(model).rsplit("/", 1)[-1],
        "data": data_name(saved.get("dataset") or {"kind": "?"}),
        "lr": settings.get("lr"),
        "rank": settings.get("lora.rank"),
        "steps": facts.get("steps") or last.get("step", 0),
        "train/nll": last.get("train/nll"),
        "eval/nll": last.get("eval/nll"),
        "usd": spent(directory),
        "unpriced": list(usage(directory).get("unpriced") or ()),
        "age": time.time() - started,
        "path": str(directory),
    }
    return Listed(directory, columns, settings | last)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-" if name in ("train/nll", "eval/nll") else "?"
    if name in ("train/nll", "eval/nll"):
        return f"{value:.4f}"
    if name == "lr" and isinstance(value, float):
        return f"{value:g}"
    return age(value) if name == "age" else str(value)
