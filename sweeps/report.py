"""`python -m sft.sweeps.report STUDY`: what a sweep found, as text, figures and one HTML page."""

import base64
import html
import io
import sys
from pathlib import Path
from typing import Any

import optuna

from sft.command.main import add_json, command, new_parser, print_json
from sft.cost.prices import dollars
from sft.display.tables import aligned
from sft.record.durations import duration
from sft.sweeps.findings.answer import answer
from sft.sweeps.findings.hover import hovering
from sft.sweeps.findings.importance import importance
from sft.sweeps.findings.results import Compared, Result, Results
from sft.sweeps.parameters import RATE, shown_value
from sft.sweeps.study import storage

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, p { overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
td:last-child, th:last-child { text-align: left }
tr.best { font-weight: 600 }
pre { background: #f5f5f5; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere }
img { max-width: min(100%, 46rem) }
@media (max-width: 40rem) {
  thead { display: none }
  table, tbody, tr, td, td:last-child { display: block; text-align: left; border: 0; padding: 0 }
  tr { border-bottom: 1px solid #ddd; padding: .4rem 0 }
  td::before { content: attr(data-name) ": "; color: #5c5c5c }
}
"""


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the best trial first, those without a value last."""
    names = list(results.space) or sorted({n for t in results.trials for n in t.params})
    if any(trial.found_rate is not None for trial in results.trials):
        names.append(RATE)
    header = ["trial", *names, *results.metrics, "steps", "tokens", "time", "state"]
    repeated = any(trial.repeats for trial in results.trials)
    if repeated:
        header.insert(2 + len(names), "95% interval")
    best = results.best()
    if priced := results.usd is not None:
        header.insert(-2, "cost")
    against = {} if best is None else results.all_against(best)
    if against:
        header.insert(-4 - priced, f"against trial {best.number}" if best else "")
    sign = 1 if results.minimize else -1
    order = sorted(
        results.trials,
        key=lambda t: (not t.values, sign * t.values[0] if t.values else 0, t.number),
    )
    rows = []
    for trial in order:
        values = [f"{value:.4f}" for value in trial.values] or [""] * len(results.metrics)
        if repeated:
            values.insert(1, str(trial.interval) if trial.repeats else "")
        if against and best:
            values.append(_verdict(results, trial, best, against.get(trial.number)))
        rows.append(
            [
                str(trial.number),
                *(shown_value(trial.trained_with.get(name)) for name in names),
                *values,
                str(trial.steps or ""),
                f"{trial.tokens:,}" if trial.tokens else "",
                *(["" if trial.usd is None else dollars(trial.usd)] if priced else []),
                duration(trial.seconds) if trial.seconds else "",
                trial.state,
            ]
        )
    return header, rows


def _verdict(results: Results, trial: Result, best: Result, compared: Compared | None) -> str:
    """What is known of a trial beside the best one."""
    if trial in (equal := results.as_good(best)):
        return "the same" if len(equal) > 1 else "the best"
    if compared is None or compared.interval is None:
        return ""
    if not compared.is_worse:
        return "cannot be told"
    return f"worse by {compared.behind:.4f} ({compared.interval})"


def write(study: optuna.Study, folder: Path) -> tuple[list[Path], list[str]]:
    """Write FOLDER/report/*.png and FOLDER/report/report.html.

    Returns that folder in a list, and the study's answer in a few lines.
    """
    from sft.sweeps.findings import figures  # imports matplotlib

    results = Results.of(study)
    found = importance(results)
    target = folder / "report"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    images: dict[str, bytes] = {}
    for name, figure in figures.every(results, found).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        images[name] = buffer.getvalue()
        (target / f"{name}.png").write_bytes(images[name])
    lines = answer(results, found)
    (target / "report.html").write_text(
        _page(results, lines, images, hovering(study, results.metrics[0])), encoding="utf-8"
    )
    return [target], lines


def _page(results: Results, lines: list[str], images: dict[str, bytes], hover: str) -> str:
    """One page that needs nothing else: the images are inside."""
    header, rows = table(results)
    best = results.best()
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr{' class=best' if best and row[0] == str(best.number) else ''}>"
        + "".join(
            f'<td data-name="{html.escape(name)}">{html.escape(cell)}</td>'
            for name, cell in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    space = ", ".join(f"{name}: {text}" for name, text in results.space.items())
    drawn = "".join(
        f'<h2>{name.replace("_", " ").capitalize()}</h2><img alt="{name}" '
        f'src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        for name, image in images.items()
    )
    title = f"Sweep {html.escape(results.name)}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title>"
        f"<style>{STYLE}</style><h1>{title}</h1><p>{html.escape(space)}</p>"
        f"<pre>{html.escape(chr(10).join(lines))}</pre>"
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{drawn}{hover}</html>\n"
    )


def text(results: Results) -> str:
    """The table of trials as aligned text."""
    header, rows = table(results)
    return "\n".join(aligned([header, *rows], right=True))


def as_json(results: Results, lines: list[str], page: Path) -> dict[str, Any]:
    """The study as plain data: its answer and its trials, by number."""
    best = results.best()
    return {
        "study": results.name,
        "metrics": dict(zip(results.metrics, results.directions, strict=True)),
        "space": results.space,
        "best": best and best.number,
        "answer": lines,
        "page": str(page),
        "trials": [
            {
                "trial": trial.number,
                "status": trial.state,
                **trial.trained_with,
                **dict(zip(results.metrics, trial.values, strict=False)),
                "steps": trial.steps,
                "tokens": trial.tokens,
                "usd": trial.usd,
                "seconds": trial.seconds,
                "error": trial.error,
                "paths": trial.directories,
            }
            for trial in results.trials
        ],
    }


@command("sft.sweeps.report")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.sweeps.report", __doc__)
    parser.add_argument("study", metavar="STUDY", help="name of a study, or its folder")
    parser.add_argument("--storage", help="Optuna URL, where the study is not in a journal")
    add_json(parser, "the answer and the trials")
    arguments = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, folder = storage.load_study(arguments.study, arguments.storage)
    written, lines = write(study, folder)
    if arguments.json:
        print_json(as_json(Results.of(study), lines, written[0] / "report.html"))
        return 0
    print(text(Results.of(study)))
    print("\n".join(["", *lines]))
    print(f"figures and page: {written[0]}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
