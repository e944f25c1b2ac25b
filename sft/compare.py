"""`python -m sft.compare RUN RUN…`: what differs between runs, and nothing else.

python -m sft.compare RUN RUN                 # any two or more runs
python -m sft.compare --last 5                # the newest under outputs/
python -m sft.compare --sweep STUDY           # the trials of a sweep
python -m sft.compare --last 5 --html page.html   # with interactive curves, opens offline
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import BadInput
from sft.find import SWEEPS, WORDS, Found, find
from sft.metrics import UNITS
from sft.mlflow_values import flatten, text
from sft.secrets import mask_urls

NOT_COMPARED = ("version", "run_name")
CHARTED = ("eval/nll", "train/nll")


@dataclass
class Compared:
    """One run as it is compared."""

    name: str
    settings: dict[str, str]
    facts: dict[str, Any]
    rows: list[dict[str, Any]]

    def series(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of `metric`, by step."""
        return [(row["step"], row[metric]) for row in self.rows if metric in row]

    def summary(self) -> dict[str, str]:
        """Figures of the whole run, in words: last and best values, tokens, time, state."""
        figures: dict[str, str] = {}
        for metric in ("train/nll", "eval/nll"):
            if values := [value for _, value in self.series(metric)]:
                figures[f"{metric} last"] = f"{values[-1]:.4f}"
                figures[f"{metric} best"] = f"{min(values):.4f}"
        if tokens := self.series("tokens/total"):
            figures["tokens"] = f"{tokens[-1][1]:,.0f}"
        if seconds := self.facts.get("seconds"):
            figures["time"] = duration(seconds)
        figures["state"] = str(self.facts.get("status") or "?")
        figures["data digest"] = str(self.facts.get("digest") or "?")[:12]
        figures["git commit"] = str((self.facts.get("git") or {}).get("commit") or "none")[:10]
        return figures


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sft.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help=WORDS)
    parser.add_argument("--last", type=int, metavar="N", help="the N newest runs under outputs/")
    parser.add_argument("--sweep", metavar="STUDY", help="the trials of a sweep")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    options = parser.parse_args(argv)
    try:
        found = [find(word, options.uri) for word in options.runs]
        found += _trials(options.sweep, options.uri) if options.sweep else []
        found += _newest(options.last) if options.last is not None else []
        runs = [load(run) for run in found]
        if len(runs) < 2:
            raise BadInput(f"there are {len(runs)} runs to compare; name two or more")
        _tell_apart(runs)
        print_comparison(runs)
        if options.html:
            from sft.compare_page import page

            if not options.html.parent.is_dir():
                raise BadInput(f"--html: there is no folder {options.html.parent}")
            options.html.write_text(page(runs), encoding="utf-8")
            print(f"\nwith interactive curves: {options.html}")
    except BadInput as error:
        print(f"sft.compare: {error}", file=sys.stderr)
        return 2
    return 0


def load(found: Found) -> Compared:
    """Everything that is compared of a run. Raises `BadInput`."""
    facts = found.facts()
    settings = {key: mask_urls(text(value)) for key, value in flatten(found.saved())}
    name = facts.get("name") or (found.directory or Path(found.word)).name
    return Compared(str(name), settings, facts, found.rows())


def _newest(count: int) -> list[Found]:
    from sft.rundir import read_facts
    from sft.runs import FOLDER, find_runs

    if count < 2:
        raise BadInput(f"--last: {count} is below 2")
    directories = sorted(
        find_runs([FOLDER]), key=lambda folder: read_facts(folder).get("started") or 0
    )
    if not directories:
        raise BadInput(f"--last: there are no runs under {FOLDER}/")
    return [find(str(folder)) for folder in directories[-count:]]


def _trials(study: str, uri: str | None) -> list[Found]:
    """The trials of `study` in order, from its folder, or from MLflow where that is gone."""
    folder = SWEEPS / study if (SWEEPS / study).is_dir() else Path(study)
    if folder.is_dir():
        directories = [f.parent for f in folder.glob("*/config.yaml")]
        order = sorted(directories, key=lambda d: [int(n) for n in re.findall(r"\d+", d.name)])
        return [find(str(directory)) for directory in order]
    from sft.find import find_trials

    return find_trials(study, uri)


def _tell_apart(runs: Sequence[Compared]) -> None:
    """Give runs of one name a number each."""
    names = [run.name for run in runs]
    for number, run in enumerate(runs, 1):
        if names.count(run.name) > 1:
            run.name = f"{run.name} #{number}"


def varying(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs: name -> value in each run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in NOT_COMPARED)
    table = {key: [run.settings.get(key, "-") for run in runs] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def figures(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """The summary's figures that are not the same in all runs."""
    summaries = [run.summary() for run in runs]
    keys = dict.fromkeys(key for summary in summaries for key in summary)
    table = {key: [summary.get(key, "-") for summary in summaries] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def metrics_of(runs: Sequence[Compared]) -> list[str]:
    """The metrics that any run has, the compared ones first."""
    found = dict.fromkeys(CHARTED)
    found |= dict.fromkeys(
        key for run in runs for row in run.rows for key in row if key not in ("step", "timestamp")
    )
    return [key for key in found if any(run.series(key) for run in runs)]


def print_comparison(runs: Sequence[Compared]) -> None:
    """Names, varying settings, figures and a chart, as plain text."""
    letters = [_letter(i) for i in range(len(runs))]
    for letter, run in zip(letters, runs, strict=True):
        print(f"{letter}  {run.name}")
    rows = varying(runs)
    print()
    _print_table(letters, rows or {"settings": ["the same"] * len(runs)})
    print()
    _print_table(letters, figures(runs) or {"figures": ["the same"] * len(runs)})
    from sft.text_chart import chart

    for metric in CHARTED:
        series = {
            letter: run.series(metric)
            for letter, run in zip(letters, runs, strict=True)
            if run.series(metric)
        }
        if series:
            print()
            print(chart(series, title=f"{metric} ({UNITS[metric]}) against step"))
            break


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index)


def _print_table(header: Sequence[str], rows: dict[str, list[str]]) -> None:
    """One line a key, or one line a run where the runs are too many for the width of a page."""
    cells = [["", *header], *([key, *map(_short, values)] for key, values in rows.items())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    if sum(widths) + 2 * len(widths) > 100 and len(header) > len(rows):
        cells = [list(row) for row in zip(*cells, strict=True)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:25]}…{value[-14:]}"


def duration(seconds: float) -> str:
    """`seconds` as 42 s, 3:05 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    sys.exit(main())
