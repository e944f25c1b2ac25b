"""Trials that paused and went no further: how one is gone on with by hand, and what came of it."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from sft.record import checkpoints, metrics
from sft.record.rundir import read_facts
from sft.sweeps.findings.results import Result, Results
from sft.sweeps.parameters import RATE


@dataclass(frozen=True)
class Unfinished:
    """A run of a trial that can be trained on."""

    word: str
    """By which commands know it."""
    step: int
    """Of its last checkpoint."""


def sentences(results: Results) -> list[str]:
    """What there is to say of a study's paused trials, and of those that were trained by hand."""
    return [*_left(results), *_trained(results)]


def _left(results: Results) -> list[str]:
    """The trials that can be gone on with, and the commands for the most promising one."""
    sign = 1 if results.minimize else -1
    left = [
        trial
        for trial in results.trials
        if trial.state in ("pruned", "paused") and trial.pauses and trial.curve
        if unfinished(results.name, trial)
    ]
    if not left or len(results.metrics) > 1:
        return []
    # Of those that came furthest the one that stood best.
    first = min(left, key=lambda t: (-_fraction(t), sign * list(t.curve.values())[-1]))
    numbers = ", ".join(str(trial.number) for trial in left[:8]) + ", …" * (len(left) > 8)
    step, value = list(first.curve.items())[-1]
    runs = unfinished(results.name, first)
    rate = first.trained_with.get(RATE)
    lower = "" if rate is None else f" {RATE}={rate / 3:.2g}"
    several = "  (it has a value once each of its repeats has come to its end)"
    return [
        f"paused and not gone on with: {numbers}; {first.number} stood best, "
        f"{results.metrics[0]} {value:.4f} at step {step} of {first.steps_in_all}",
        *(f"  to its end:  python -m sft.resume {run.word}" for run in runs),
        *[several] * (len(first.directories) > 1),
        f"  another way: python -m sft.fork {runs[0].word} --from {runs[0].step}{lower}",
    ]


def _fraction(trial: Result) -> float:
    return trial.pauses[-1] / trial.steps_in_all if trial.steps_in_all else 0.0


def unfinished(study: str, trial: Result) -> list[Unfinished]:
    """The runs of a trial that have not come to their end, as far as this machine can tell."""
    several = len(trial.directories) > 1
    found = []
    for repeat, folder in enumerate(map(Path, trial.directories)):
        if read_facts(folder).get("status") == "FINISHED":
            continue
        file = folder / "checkpoints.jsonl"
        steps = [record.step for record in checkpoints.read(file)] if file.exists() else []
        word = f"{study}/{trial.number}" + f"-{repeat}" * several
        found.append(Unfinished(word, steps[-1] if steps else list(trial.curve)[-1]))
    return found


def _trained(results: Results) -> list[str]:
    """Trials that are over for the study and were trained to their end since."""
    lines = []
    for trial in results.trials:
        if trial.state not in ("pruned", "paused") or (value := _final(results, trial)) is None:
            continue
        counts = (
            "in the study it stays pruned, and does not count above"
            if trial.state == "pruned"
            else "it counts once the sweep goes on"
        )
        lines.append(
            f"trial {trial.number}: trained on by hand to its end, {results.metrics[0]} "
            f"{value:.4f}; {counts}"
        )
    return lines


def _final(results: Results, trial: Result) -> float | None:
    """The last value of the first metric, a mean over repeats; None before each run has ended."""
    folders = [path for path in map(Path, trial.directories) if path.is_dir()]
    if not folders or any(read_facts(path).get("status") != "FINISHED" for path in folders):
        return None
    rows = [metrics.read(path / "metrics.jsonl")[-1] for path in folders]
    values = [row[results.metrics[0]] for row in rows if results.metrics[0] in row]
    return statistics.fmean(values) if len(values) == len(folders) else None
