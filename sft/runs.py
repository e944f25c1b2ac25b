"""`python -m sft.runs`: the runs on this machine, newest first; ends what a crash left open.

    python -m sft.runs                     # everything under outputs/
    python -m sft.runs outputs/2026-01-31  # some folders

A run whose process is gone without a word is recorded as KILLED, on disk and in MLflow. What MLflow
or another tracker missed of any run is sent. `python -m sft.resume RUN` continues such a run.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sft.command.main import command, new_parser
from sft.display.tables import aligned
from sft.errors import BadInput
from sft.past.listing import COLUMNS, FOLDER, Listed, close, find_runs, listed
from sft.record.rundir import read_facts
from sft.tracking import trackers

FLUSH_SECONDS = 60.0


@command("sft.runs")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.runs", __doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, help=f"folders to look in (default: {FOLDER})"
    )
    parser.add_argument("--uri", help="MLflow store, where a run recorded one with a password")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    directories = list(find_runs(options.folders or [FOLDER]))
    for folder in options.folders:
        if not folder.exists():
            in_mlflow = re.match(r"(models|runs):/|[0-9a-f]{32}$", str(folder))
            what = "is a name in MLflow" if in_mlflow else "there is no such folder"
            raise BadInput(f"{folder}: {what}; expected folders to look in (default: {FOLDER}/)")
    for directory in directories:
        if close(directory):
            print(f"closed as KILLED: {directory}")
    show([listed(directory) for directory in directories])
    return send(directories, options.uri)


def send(directories: Sequence[Path], uri: str | None = None) -> int:
    """Bring to MLflow and other trackers what they lack of the ended runs; the exit code, 1 if one
    does not answer.

    A store that the run recorded and that can never work is passed over with a sentence.
    """
    lacking: Counter[str] = Counter()
    for directory in directories:
        if read_facts(directory).get("status") == "RUNNING":
            continue
        for name, tracker in trackers.TRACKERS.items():
            try:
                lacking[name] += tracker.sync(directory, uri)
            except BadInput as error:
                print(f"{directory}: {error}", file=sys.stderr)
    code = 0
    for name, count in (+lacking).items():
        tracker = trackers.TRACKERS[name]
        unsent = tracker.flush(FLUSH_SECONDS)
        if sent := count - len(unsent):
            plural = "s" if sent > 1 else ""
            print(f"sent to {tracker.title} what it lacked of {sent} run{plural}")
        for sentence in unsent:
            print(sentence, file=sys.stderr)
            code = 1
    return code


def show(runs: Sequence[Listed]) -> None:
    """Print the table, newest first; the path comes last, so nothing is cut."""
    if not runs:
        print(f"no runs under {FOLDER}/ yet: `python -m sft` makes one")
        return
    rows = [run.cells for run in sorted(runs, key=lambda run: -run.started)]
    print("\n".join(aligned([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])))


if __name__ == "__main__":
    sys.exit(main())
