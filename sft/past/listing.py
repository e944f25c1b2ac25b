"""The runs on this machine: all of them, a line of each, ending those whose process is gone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.data_name import data_name
from sft.cost.meter import spent_in_words
from sft.errors import BadInput
from sft.files import read_yaml
from sft.record.durations import age
from sft.record.metrics import read
from sft.record.rundir import end, is_running, read_facts

FOLDER = Path("outputs")
COLUMNS = (
    *("state", "model", "data", "lr", "rank", "steps", "train/nll", "eval/nll", "usd", "age"),
    "path",
)


@dataclass
class Listed:
    """One run as the list shows it."""

    directory: Path
    state: str
    started: float
    """Seconds since 1970."""
    cells: dict[str, str]


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
    started = facts.get("started") or (directory / "config.yaml").stat().st_mtime
    model = saved.get("model") or {}
    cells = {
        "state": facts.get("status", "?"),
        "model": str(model.get("name", "?")).rsplit("/", 1)[-1],
        "data": data_name(saved.get("dataset") or {"kind": "?"}),
        "lr": f"{saved['lr']:g}" if isinstance(saved.get("lr"), float) else "?",
        "rank": str((saved.get("lora") or {}).get("rank", "?")),
        "steps": str(facts.get("steps") or last.get("step", 0)),
        "train/nll": _number(last.get("train/nll")),
        "eval/nll": _number(last.get("eval/nll")),
        "usd": spent_in_words(directory),
        "age": age(time.time() - started),
        "path": str(directory),
    }
    return Listed(directory, cells["state"], started, cells)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"
