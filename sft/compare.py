"""`python -m sft.compare RUN RUN…`: what differs between runs, and how sure that is.

python -m sft.compare RUN RUN                     # any two or more runs
python -m sft.compare RUN RUN --checkpoint best   # at their best
python -m sft.compare --last 5                    # the newest under outputs/
python -m sft.compare --sweep STUDY               # the trials of a sweep
python -m sft.compare --last 5 --html page.html   # interactive, offline
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.command.main import add_json, command, new_parser, print_json
from sft.display.comparison_page import page
from sft.display.tables import aligned
from sft.display.text_chart import chart
from sft.errors import BadInput
from sft.past.comparison import CHARTED, Compared, figures, read_run, tell_apart, varying
from sft.past.find import SWEEPS, WORDS, Found, find, find_trials
from sft.past.verdicts import verdicts
from sft.record.metrics import unit_of
from sft.record.rundir import read_facts
from sft.runs import FOLDER, find_runs


@command("sft.compare")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.compare", __doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=WORDS)
    parser.add_argument("--last", type=int, metavar="N", help="the N newest runs under outputs/")
    parser.add_argument("--sweep", metavar="STUDY", help="the trials of a sweep")
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="compare the runs up to it: best, last or a name"
    )
    add_json(parser, "the comparison")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    options = parser.parse_args(argv)
    found = [find(word, options.uri) for word in options.runs]
    found += _trials(options.sweep, options.uri) if options.sweep else []
    found += _newest(options.last) if options.last is not None else []
    if len(found) < 2:
        raise BadInput(f"there are {len(found)} runs to compare; name two or more")
    runs = [read_run(run, options.checkpoint) for run in found]
    tell_apart(runs)
    if options.html and not options.html.parent.is_dir():
        raise BadInput(f"--html: there is no folder {options.html.parent}")
    if options.json:
        print_json(as_json(runs))
    else:
        print_comparison(runs)
    if options.html:
        options.html.write_text(page(runs), encoding="utf-8")
        if not options.json:
            print(f"\nwith interactive curves: {options.html}")
    return 0


def _newest(count: int) -> list[Found]:
    if count < 2:
        raise BadInput(f"--last: {count} is below 2")
    directories = sorted(
        find_runs([FOLDER]), key=lambda folder: read_facts(folder).get("started") or 0
    )
    if not directories:
        raise BadInput(f"--last: there are no runs under {FOLDER}/")
    return [find(str(folder)) for folder in directories[-count:]]


def _trials(study: str, uri: str | None) -> list[Found]:
    """The trials of `study` in order, from its folder, or from MLflow if that is gone."""
    folder = SWEEPS / study if (SWEEPS / study).is_dir() else Path(study)
    if folder.is_dir():
        directories = [f.parent for f in folder.glob("*/config.yaml")]
        order = sorted(directories, key=lambda d: [int(n) for n in re.findall(r"\d+", d.name)])
        return [find(str(directory)) for directory in order]

    return find_trials(study, uri)


def as_json(runs: Sequence[Compared]) -> dict[str, Any]:
    """What is printed of a comparison: values by the letters that the verdicts speak of."""
    letters = _letters(runs)

    def by_letter(rows: dict[str, list[str]]) -> dict[str, dict[str, str]]:
        return {key: dict(zip(letters, values, strict=True)) for key, values in rows.items()}

    return {
        "runs": {letter: run.name for letter, run in zip(letters, runs, strict=True)},
        "settings": by_letter(varying(runs)),
        "figures": by_letter(figures(runs)),
        "verdicts": verdicts(runs, letters),
    }


def print_comparison(runs: Sequence[Compared]) -> None:
    """Names, varying settings, figures and a chart, as plain text."""
    letters = _letters(runs)
    for letter, run in zip(letters, runs, strict=True):
        print(f"{letter}  {run.name}")
    rows = varying(runs)
    print()
    _print_table(letters, rows or {"settings": ["the same"] * len(runs)})
    print()
    _print_table(letters, figures(runs) or {"figures": ["the same"] * len(runs)})

    if lines := verdicts(runs, letters):
        print("\n" + "\n".join(lines))

    for metric in CHARTED:
        series = {
            letter: run.series(metric)
            for letter, run in zip(letters, runs, strict=True)
            if run.series(metric)
        }
        if series:
            print()
            print(chart(series, title=f"{metric} ({unit_of(metric)}) against step"))
            break


def _letters(runs: Sequence[Compared]) -> list[str]:
    return [chr(ord("A") + index) if index < 26 else str(index) for index in range(len(runs))]


def _print_table(header: Sequence[str], rows: dict[str, list[str]]) -> None:
    """One line a key, or one line a run if the runs are too many for the width of a page."""
    cells = [["", *header], *([key, *map(_short, values)] for key, values in rows.items())]
    lines = aligned(cells)
    if max(map(len, lines)) > 100 and len(header) > len(rows):
        lines = aligned([list(row) for row in zip(*cells, strict=True)])
    print("\n".join(lines))


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:25]}…{value[-14:]}"


if __name__ == "__main__":
    sys.exit(main())
