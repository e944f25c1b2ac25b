"""`python -m sft.runs`: the runs on this machine, newest first; ends what a crash left open.

    python -m sft.runs                     # everything under outputs/
    python -m sft.runs outputs/2026-01-31  # some folders
    python -m sft.runs --sort eval/nll --where status=FINISHED
    python -m sft.runs --where 'name=faq*' --where 'lr<1e-3' --json

KEY of --where and --sort is a column, a setting (lora.rank, seed) or a metric. A run whose process
is gone without a word is recorded as KILLED, on disk and in MLflow. What MLflow or another tracker
missed of any run is sent. `python -m sft.resume RUN` continues such a run.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from sft.command.main import add_json, command, new_parser, print_json
from sft.display.tables import aligned
from sft.errors import BadInput
from sft.past.listing import COLUMNS, FOLDER, Listed, close, find_runs, listed
from sft.past.selection import by, selected
from sft.record.rundir import read_facts
from sft.tracking import trackers

FLUSH_SECONDS = 60.0
BELOW = ("path", "model", "data")
"""Columns that go below the others where one line is too narrow for all."""


@command("sft.runs")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.runs", __doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, help=f"folders to look in (default: {FOLDER})"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only runs of which this is true; also != < > <= >=, and * in VALUE; all of several",
    )
    parser.add_argument("--sort", metavar="KEY", help="by this, the smallest first (default: age)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    add_json(parser, "the runs")
    parser.add_argument("--uri", help="MLflow store, where a run recorded one with a password")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    directories = list(find_runs(options.folders or [FOLDER]))
    for folder in options.folders:
        if not folder.exists():
            in_mlflow = re.match(r"(models|runs):/|[0-9a-f]{32}$", str(folder))
            what = "is a name in MLflow" if in_mlflow else "there is no such folder"
            raise BadInput(f"{folder}: {what}; expected folders to look in (default: {FOLDER}/)")
    # What is done beside the list is no part of the JSON.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        for directory in directories:
            if close(directory):
                print(f"closed as KILLED: {directory}")
    runs = [listed(directory) for directory in directories]
    wanted = by(options.sort, selected(runs, options.where), reverse=options.reverse)
    if options.json:
        print_json([run.columns for run in wanted])
    elif runs:
        # In a pipe each run is one line, however long.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(table(wanted, width)))
    else:
        print(f"no runs under {FOLDER}/ yet: `python -m sft` makes one")
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
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


def table(runs: Sequence[Listed], width: int | None = None) -> list[str]:
    """A header and a line for each run; where one has more than `width` characters, its path, model
    and data go below. No cell is cut."""
    rows = [run.cells for run in runs]
    lines = aligned([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
    if width is None or max(map(len, lines)) <= width:
        return lines
    above = [name for name in COLUMNS if name not in BELOW]
    first, *lines = aligned([above, *([row[name] for name in above] for row in rows)])
    return [
        first,
        *(
            line
            for head, row in zip(lines, rows, strict=True)
            for line in (head, *_filled([row[name] for name in BELOW], width))
        ),
    ]


def _filled(cells: Sequence[str], width: int) -> Iterator[str]:
    """`cells` on as few lines as hold them whole."""
    line = ""
    for cell in cells:
        if line and len(f"{line}  {cell}") > width:
            yield line
            line = ""
        line = f"{line}  {cell}"
    yield line


if __name__ == "__main__":
    sys.exit(main())
