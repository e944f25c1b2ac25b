"""`python -m sft.runs`: the runs on this machine, newest first; ends what a crash left open.

    python -m sft.runs                     # everything under outputs/
    python -m sft.runs outputs/2026-01-31  # some folders

A run whose process is gone without a word is recorded as KILLED, on disk and in MLflow, and what
MLflow missed of any run is sent. `python -m sft.resume RUN` continues such a run.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data_name import data_name
from sft.errors import BadInput

FOLDER = Path("outputs")
FLUSH_SECONDS = 60.0
COLUMNS = ("state", "model", "data", "lr", "rank", "steps", "train/nll", "eval/nll", "age", "path")


@dataclass
class Listed:
    """One run as the list shows it."""

    directory: Path
    state: str
    started: float
    """Seconds since 1970."""
    cells: dict[str, str]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sft.runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, help=f"folders to look in (default: {FOLDER})"
    )
    parser.add_argument("--uri", help="MLflow store, where a run recorded one with a password")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        directories = list(find_runs(options.folders or [FOLDER]))
        for folder in options.folders:
            if not folder.exists():
                raise BadInput(f"{folder}: there is no such folder")
        for directory in directories:
            if close(directory):
                print(f"closed as KILLED: {directory}")
        show([listed(directory) for directory in directories])
        return send(directories, options.uri)
    except BadInput as error:
        print(f"sft.runs: {error}", file=sys.stderr)
        return 2


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
    from sft.checkpoints import replace_durably
    from sft.rundir import is_running, read_facts

    try:
        facts = read_facts(directory)
        if facts.get("status") != "RUNNING" or is_running(directory):
            return False
        last = max(file.stat().st_mtime for file in directory.glob("*.json*"))
        facts |= {"status": "KILLED", "ended": last}
        facts["reason"] = "its process ended without a word: a crash, SIGKILL or a power cut"
        replace_durably(directory / "run.json", json.dumps(facts, indent=2) + "\n")
    except (OSError, ValueError) as error:
        print(f"{directory}: cannot be closed: {error}", file=sys.stderr)
        return False
    return True


def send(directories: Sequence[Path], uri: str | None = None) -> int:
    """Bring to MLflow what it lacks of the ended runs; the exit code, 1 where it does not answer.

    A store that the run recorded and that can never work is passed over with a sentence.
    """
    from sft import tracking
    from sft.rundir import read_facts

    count = 0
    for directory in directories:
        if read_facts(directory).get("status") == "RUNNING":
            continue
        try:
            count += tracking.sync(directory, uri)
        except BadInput as error:
            print(f"{directory}: {error}", file=sys.stderr)
    if not count:
        return 0
    unsent = tracking.flush(FLUSH_SECONDS)
    if sent := count - len(unsent):
        print(f"sent to MLflow what it lacked of {sent} run{'s' if sent > 1 else ''}")
    for sentence in unsent:
        print(sentence, file=sys.stderr)
    return 1 if unsent else 0


def listed(directory: Path) -> Listed:
    """What the list says of the run in `directory`."""
    from sft.config import load_yaml
    from sft.metrics import read
    from sft.rundir import read_facts

    facts = read_facts(directory)
    try:
        saved = load_yaml(directory / "config.yaml")
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
        "age": age(time.time() - started),
        "path": str(directory),
    }
    return Listed(directory, cells["state"], started, cells)


def show(runs: Sequence[Listed]) -> None:
    """Print the table, newest first; the path comes last, so that nothing is cut."""
    if not runs:
        print(f"no runs under {FOLDER}/ yet: `python -m sft` makes one")
        return
    rows = [run.cells for run in sorted(runs, key=lambda run: -run.started)]
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in COLUMNS}
    for row in [{column: column for column in COLUMNS}, *rows]:
        print("  ".join(row[column].ljust(widths[column]) for column in COLUMNS).rstrip())


def age(seconds: float) -> str:
    """`seconds` in its largest unit: 40s, 12m, 5h, 3d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


if __name__ == "__main__":
    sys.exit(main())
