"""`python -m sweeps.report STUDY`: what a sweep found, as text, figures and one HTML page."""

import argparse
import base64
import html
import io
import shlex
import sys
from pathlib import Path

import optuna

from sft.errors import BadInput
from sweeps import storage
from sweeps.display import duration, shown, shown_value
from sweeps.results import Result, Results

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


def answer(study: optuna.Study, folder: Path) -> list[str]:
    """The answer of a study in a few lines."""
    results = Results.of(study)
    best = results.best()
    if best is None:
        return ["no trial is complete yet", *_problems(results)]
    lines: list[str] = []
    if len(results.metrics) > 1:
        lines.append("Pareto front of " + ", ".join(results.metrics) + ":")
        for trial in results.front():
            values = ", ".join(f"{value:.4g}" for value in trial.values)
            lines.append(f"  trial {trial.number}: {values} with {shown(trial.params)}")
    lines += _described(results, best, "best trial")
    small = results.smallest_rank() if len(results.metrics) == 1 else None
    noise, source = results.noise
    if small is not None and small.number != best.number:
        loss = abs(small.values[0] - best.values[0])
        lines.append(
            f"smallest rank within {source} (±{noise:.4f}) of the best, cheaper to serve: "
            f"{small.params['lora.rank']}, {loss:.4f} behind"
        )
        lines += _described(results, small, "its best trial")
    elif small is not None:
        lines.append(
            f"no smaller rank comes within {source} (±{noise:.4f}) of rank "
            f"{small.params['lora.rank']}"
        )
    return [*lines, _totals(results), *_problems(results)]


def _described(results: Results, trial: Result, what: str) -> list[str]:
    spread = f" ± {trial.spread:.4f}" if trial.spread is not None else ""
    lines = [
        f"{what}: {trial.number}, {results.metrics[0]} {trial.values[0]:.4f}{spread} with "
        f"{shown(trial.params) or 'nothing varied'}"
    ]
    if trial.checkpoint:
        lines.append(f"  checkpoint:  {trial.checkpoint['sampler']}")
    lines.append(f"  train again: {train_again(results, trial)}")
    return lines


def train_again(results: Results, trial: Result) -> str:
    """The command that trains a trial's configuration as a single run."""
    values = [f"{name}={_typed(value)}" for name, value in trial.params.items()]
    return f"python -m sft {shlex.join([*results.command, *values])}"


def _typed(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _totals(results: Results) -> str:
    seconds = sum(trial.seconds for trial in results.trials)
    cost = ""
    if results.price is not None:
        cost = f", cost {results.tokens * results.price / 1e6:.2f}"
    saved = sum(results.saved().values())
    spared = f", {saved:,} tokens spared by ending trials early" if saved else ""
    return (
        f"{len(results.trials)} trials: {results.tokens:,} tokens, {seconds / 3600:.2f} hours of "
        f"training ({duration(seconds)}, trials side by side){cost}{spared}"
    )


def _problems(results: Results) -> list[str]:
    """What happened to the trials that did not come to their end."""
    return [
        f"trial {trial.number}: {trial.state} ({trial.error})"
        for trial in results.trials
        if trial.error and trial.state in ("failed", "diverged")
    ]


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the best trial first, those without a value last."""
    names = list(results.space) or sorted({n for t in results.trials for n in t.params})
    header = ["trial", *names, *results.metrics, "steps", "tokens", "time", "state"]
    has_spread = any(trial.spread is not None for trial in results.trials)
    if has_spread:
        header.insert(2 + len(names), "±")
    sign = 1 if results.minimize else -1
    order = sorted(
        results.trials,
        key=lambda t: (not t.values, sign * t.values[0] if t.values else 0, t.number),
    )
    rows = []
    for trial in order:
        values = [f"{value:.4f}" for value in trial.values] or [""] * len(results.metrics)
        if has_spread:
            values.insert(1, "" if trial.spread is None else f"{trial.spread:.4f}")
        rows.append(
            [
                str(trial.number),
                *(shown_value(trial.params.get(name)) for name in names),
                *values,
                str(trial.steps or ""),
                f"{trial.tokens:,}" if trial.tokens else "",
                duration(trial.seconds) if trial.seconds else "",
                trial.state,
            ]
        )
    return header, rows


def write(study: optuna.Study, folder: Path) -> list[Path]:
    """Writes FOLDER/report/*.png and FOLDER/report/report.html; returns the folder in a list."""
    from sweeps import figures

    results = Results.of(study)
    target = folder / "report"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    images: dict[str, bytes] = {}
    for name, figure in figures.every(study, results).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        images[name] = buffer.getvalue()
        (target / f"{name}.png").write_bytes(images[name])
    page = _page(results, answer(study, folder), images)
    (target / "report.html").write_text(page, encoding="utf-8")
    return [target]


def _page(results: Results, lines: list[str], images: dict[str, bytes]) -> str:
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
        f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{drawn}</html>\n"
    )


def text(results: Results) -> str:
    """The table of trials as aligned text."""
    header, rows = table(results)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [header, *rows]
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.report", description=__doc__)
    parser.add_argument("study", metavar="STUDY", help="name of a study, or its folder")
    parser.add_argument("--storage", help="Optuna URL, where the study is not in a journal")
    arguments = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study, folder = storage.load_study(arguments.study, arguments.storage)
    except BadInput as error:
        print(f"sweeps.report: {error}", file=sys.stderr)
        return 2
    print(text(Results.of(study)))
    print("\n".join(["", *answer(study, folder)]))
    written = write(study, folder)
    print(f"figures and page: {written[0]}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
