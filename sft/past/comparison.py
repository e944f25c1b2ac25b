"""Runs side by side: the settings and figures in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.cost.prices import amount
from sft.past.choosing import choose
from sft.past.find import Found
from sft.record.durations import duration
from sft.record.examples import Examples
from sft.record.metrics import evaluated, is_less_better
from sft.secrets import mask_urls
from sft.tracking.values import flatten, text

NOT_COMPARED = ("version", "run_name")
CHARTED = ("eval/nll", "train/nll")


@dataclass
class Compared:
    """One run as it is compared."""

    name: str
    settings: dict[str, str]
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    examples: dict[str, Examples] = field(default_factory=dict)
    """What the last value of a metric is made of, if its examples are kept."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Metrics whose examples are in a file that cannot be read, and that file."""

    def series(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of `metric`, by step."""
        return [(row["step"], row[metric]) for row in self.rows if metric in row]

    def lacks(self, metric: str) -> str | None:
        """Why it has no examples of `metric`, `{}` being its name; None if it has."""
        if metric in self.examples:
            return None
        if file := self.unreadable.get(metric):
            return f"the examples of {{}} cannot be read ({file})"
        return "no examples are kept of {}" if self.series(metric) else "not measured by {}"

    def summary(self) -> dict[str, str]:
        """Figures of the whole run, in words: last and best values, tokens, time, state."""
        figures: dict[str, str] = {}
        for metric in ("train/nll", *evaluated({name for row in self.rows for name in row})):
            if values := [value for _, value in self.series(metric)]:
                chosen = self.settings.get("metric"), self.settings.get("direction")
                choose = min if is_less_better(metric, *chosen) else max
                figures[f"{metric} last"] = f"{values[-1]:.4f}"
                figures[f"{metric} best"] = f"{choose(values):.4f}"
        if tokens := self.series("tokens/total"):
            figures["tokens"] = f"{tokens[-1][1]:,.0f}"
        if (usd := self.facts.get("usd")) is not None:
            figures["cost"] = amount(usd, self.facts.get("unpriced") or ())
        if seconds := self.facts.get("seconds"):
            figures["time"] = duration(seconds)
        figures["state"] = str(self.facts.get("status") or "?")
        figures["data digest"] = str(self.facts.get("digest") or "?")[:12]
        figures["git commit"] = str((self.facts.get("git") or {}).get("commit") or "none")[:10]
        return figures


def read_run(found: Found, checkpoint: str | None = None) -> Compared:
    """Everything that is compared of a run; up to `checkpoint` (see `choose`) if one is named, or
    if the run was found by that of a registered model. Raises `BadInput`."""
    facts = found.facts()
    settings = {key: mask_urls(text(value)) for key, value in flatten(found.saved())}
    name = str(facts.get("name") or (found.directory or Path(found.word)).name)
    rows = found.rows()
    if checkpoint is not None or found.state_path:
        record = choose(found, None if found.state_path else checkpoint)
        rows = [row for row in rows if row["step"] <= record.step]
        name = f"{name}, checkpoint {record.name} (step {record.step})"
    kept = found.examples(rows)
    return Compared(name, settings, facts, rows, kept.examples, kept.unreadable)


def tell_apart(runs: Sequence[Compared]) -> None:
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
