"""What a run shows: a banner, its progress, and what to do next.

On a terminal a live bar; elsewhere (a file, a pipe, CI) plain lines.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.data_name import data_name
from sft.config.schema import Settings
from sft.cost.prices import amount, dollars
from sft.display.stages import describe
from sft.display.tables import NAMES, laid_out
from sft.hooks import BaseHook, Run, RunResult
from sft.record.checkpoints import CheckpointRecord
from sft.record.durations import duration
from sft.record.examples import STDERR
from sft.record.metrics import evaluated
from sft.rendering.report import Report
from sft.run.effects import of_settings
from sft.secrets import identity, mask, mask_urls
from sft.service.habits.server import shown
from sft.stages import stages

PLAIN_LINE_EVERY = 10.0
"""Seconds between two progress lines if there is no terminal."""

HELD_OUT_TOO = "conversations left out since the same ones are held out"


class Terminal(BaseHook):
    """Shows one run on standard output."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        overrides: list[str],
        variables: Mapping[str, str] | None = None,
    ):
        from rich.console import Console

        self.settings = settings
        self.directory = directory
        self.overrides = [mask(override) for override in overrides]
        self.variables = dict(variables or {})
        # Plain text in a notebook, where FORCE_COLOR is set: rich would redraw lines as on a
        # terminal, or make an output of its own of each part of a line.
        self.console = Console(
            highlight=False, force_jupyter=False, force_terminal=sys.stdout.isatty()
        )
        self.progress: Any = None
        self._last_line = 0.0

    def on_start(self, run: Run) -> None:
        stages.close()
        self.total = run.facts["steps"]
        self._banner(run)
        if self.console.is_terminal:
            self._start_bar(run.start_step)

    def _banner(self, run: Run) -> None:
        settings, facts = self.settings, run.facts
        parameters = facts.get("trained_parameters")
        trained = f", {parameters:,} parameters trained" if parameters else ""
        rows = [
            ("model", f"{settings.model.name}, LoRA rank {settings.lora.rank}{trained}"),
            ("data", _describe_data(data_name(settings.dataset), facts)),
            ("steps", _describe_steps(settings, facts)),
            ("lr", _describe_rate(run)),
        ]
        if (cost := _describe_cost(run)) is not None:
            rows.append(("cost", cost))
        url = shown(run.config.base_url) or "https://tinker.thinkingmachines.dev"
        rows.append(("service", f"{settings.service.kind}, {mask_urls(url)}"))
        rows.append(("results", str(self.directory)))
        rows.append(("tracking", describe_tracking(settings, self.variables)))
        if self.overrides:
            rows.append(("not default", " ".join(self.overrides)))
        for name, text in rows:
            # A path is one word, whatever is in it.
            words = [text] if name == "results" else text.split(" ")
            first, *more = laid_out(words, self.console.width)
            self.console.print(f"[bold]{name:<{NAMES}}[/bold]", end="")
            for line in (first, *more):
                self._line(line)
        for sentence in getattr(facts.get("data"), "report", Report()).lines():
            self._line(f"data: {sentence}")
        for sentence in facts.get("habits", ()):
            self._line(f"service: {sentence}")
        for sentence in [*of_settings(settings), *facts.get("without_effect", ())]:
            self._line(f"without effect: {sentence}")
        self.console.print()

    def _start_bar(self, completed: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.text = _BarText(stages.current())
        self.task = self.progress.add_task(
            "", total=self.total, completed=completed, text=self.text
        )
        self.progress.start()

    def on_progress(self, step: int, metrics: dict[str, float]) -> None:
        loss = f"train/nll {metrics['train/nll']:.4f}"
        text = f"lr {metrics['lr']:.2e}  {metrics['tokens/per_second']:,.0f} tok/s"
        if (usd := metrics.get("cost/usd")) is not None:
            text += f"  {dollars(usd)}"
        if self.progress is not None:
            self.text.loss, self.text.more = loss, text
            self.progress.update(self.task, completed=step + 1)
            return
        now = time.monotonic()
        if step + 1 == self.total or now - self._last_line >= PLAIN_LINE_EVERY:
            self._last_line = now
            left = metrics["time/step"] * (self.total - step - 1)
            self._line(f"step {step + 1}/{self.total}  {loss}  {text}  {duration(left)} left")

    def on_metrics(self, step: int, metrics: dict[str, float], timestamp_ms: int) -> None:
        if evaluated := {k: v for k, v in metrics.items() if k.startswith("eval/")}:
            self._line(f"eval at step {step}: {_numbers(evaluated)}")

    def on_message(self, text: str) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def on_end(self, result: RunResult) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.console.print()
        if result.status == "FINISHED":
            self._closing_table(result)
        else:
            reason = result.error or result.reason or ""
            cost = "" if result.usd is None else f" and {_spent(result)}"
            self._line(f"{result.status} after {result.steps} steps{cost}: {reason}")
        self._answers(result)
        self._next(result)

    def _closing_table(self, result: RunResult) -> None:
        from rich.table import Table
        from rich.text import Text

        cost = "" if result.usd is None else f" for {_spent(result)}"
        self._line(f"{result.name}: {result.steps} steps in {duration(result.seconds)}{cost}")
        table = Table()
        for column in ("", "first", "best", "last"):
            table.add_column(column, justify="left" if not column else "right")
        for metric in ("train/nll", *evaluated(result.last)):
            if metric in result.last:
                first, last = f"{result.first[metric]:.4f}", f"{result.last[metric]:.4f}"
                best = result.bests.get(metric)
                shown = f"{best[1]:.4f} (step {best[0]})" if best else ""
                table.add_row(Text(metric), first, shown, last)
        self.console.print(table)
        if result.reason:
            self._line(result.reason)

    def _answers(self, result: RunResult) -> None:
        """The first prompt of one table that was answered before the first step and at the end."""
        for name in ("answers", "prompts"):
            before, after = result.tables.get(f"{name}@start"), result.tables.get(name)
            # The same rows, if the last evaluation failed; others, if an evaluator of the user's
            # own has that name.
            if before and after and after is not before and result.status == "FINISHED":
                if {"prompt", "answer"} <= before[0].keys() & after[0].keys():
                    break
        else:
            return
        first, last = before[0], after[0]
        self.console.print("\n[bold]prompt[/bold]", end="  ")
        self._line(_shorten(first["prompt"]))
        for name, text in (
            ("before", first["answer"]),
            ("after", last["answer"]),
            ("reference", first.get("reference")),
        ):
            if text is not None:
                self.console.print(f"[bold]{name}[/bold]", end="  ")
                self._line(_shorten(text))

    def _next(self, result: RunResult) -> None:
        directory = shlex.quote(str(self.directory))
        lines = []
        for record in _worth_showing(result.checkpoints, result.best):
            mark = " (best)" if record is result.best else ""
            lines.append((f"checkpoint {record.name}{mark}", record.sampler_path))
        if result.status != "FINISHED" and result.checkpoints:
            more = " budget.usd=…" if (result.reason or "").startswith("budget.usd") else ""
            lines.append(("resume", f"python -m sft.resume {directory}{more}"))
        if result.status == "FINISHED":
            lines.append(("talk to it", f"python -m sft.chat {directory}"))
            lines.append(("take it along", f"python -m sft.export {directory} adapter"))
        if self.settings.tracking.uri:
            lines.append(("view", self._how_to_view(self.settings.tracking.uri)))
        lines.append(("reproduce", f"python -m sft.reproduce {directory}"))
        self.console.print()
        width = max(len(name) for name, _ in lines)
        for name, text in lines:
            self.console.print(f"[bold]{name:<{width}}[/bold]", end="  ")
            self._line(text)

    def _how_to_view(self, uri: str) -> str:
        """The command that shows the store, or the address of one that shows itself."""
        if uri.startswith(("http://", "https://")):
            return re.sub(r"//[^/@]*@", "//", identity(uri))
        default = uri == Settings().tracking.uri and not os.environ.get("MLFLOW_TRACKING_URI")
        if default or "tracking.uri" in self.variables:
            return "python -m sft.ui"
        return f"python -m sft.ui --uri {shlex.quote(mask_urls(uri))}"


@dataclass
class _BarText:
    """What stands beside the bar, as it is whenever that is drawn: evaluations come and go."""

    told: stages.Stages | None
    loss: str = ""
    more: str = ""

    def __str__(self) -> str:
        evaluations = self.told.under_way if self.told else []
        if not evaluations:
            return f"{self.loss}  {self.more}"
        whole = stages.Stage(
            evaluations[0].what,
            total=sum(one.total or 0 for one in evaluations),
            done=sum(one.done for one in evaluations),
        )
        return f"{self.loss}  {describe(whole)}"


def _worth_showing(
    records: list[CheckpointRecord], best: CheckpointRecord | None
) -> list[CheckpointRecord]:
    return [record for record in records if record is records[-1] or record is best]


def describe_tracking(settings: Settings, variables: Mapping[str, str]) -> str:
    """Where results go, and which variable said so if no config did."""
    tracking = settings.tracking
    also = ", ".join(tracking.also)
    if tracking.uri is None:
        return also or "none"
    given = [variables[k] for k in ("tracking.uri", "tracking.experiment") if k in variables]
    said = f", as {' and '.join(given)} say{'s' * (len(given) == 1)}" if given else ""
    mlflow = f"{mask_urls(tracking.uri)}, experiment {tracking.experiment}{said}"
    return f"{mlflow}; {also}" if also else mlflow


def _describe_data(name: str, facts: dict[str, Any]) -> str:
    """What a run trains on, with the counts in its `facts`."""
    data, held_out = facts.get("data"), facts.get("held_out")
    if data is None:
        return name
    if not data.datums:  # of streams alone
        return f"{name} ({data.report.found})"
    found = f" ({data.report.found})" if data.report.found else ""
    text = f"{name}{found}: {data.datums:,} sequences, {data.tokens:,} tokens"
    text += f", {data.trained_tokens:,} trained"
    for count, word in (
        (data.dropped, "dropped"),
        (data.truncated, "cut at max_length"),
        (data.duplicates, HELD_OUT_TOO),
    ):
        if count:
            text += f", {count:,} {word}"
    return f"{text}; held out: {held_out.datums:,}" if held_out else text


def _describe_steps(settings: Settings, facts: dict[str, Any]) -> str:
    return (
        f"{facts['steps']:,} of {settings.batch_size} sequences "
        f"({facts['steps_per_epoch']:,} an epoch)"
    )


def _describe_rate(run: Run) -> str:
    """The peak learning rate, its schedule, and where it comes from if nobody gave it."""
    guess = run.facts.get("learning_rate")
    found = f"; auto: {guess.source}" if guess else ""
    return f"{run.config.learning_rate:g}, {run.config.lr_schedule}{found}"


def _spent(result: RunResult) -> str:
    """What a run has cost, and what is not in it."""
    lacks = f" ({' and '.join(result.unpriced)} tokens have no price)" if result.unpriced else ""
    return f"{amount(result.usd or 0.0, result.unpriced)}{lacks}"


def _describe_cost(run: Run) -> str | None:
    """What the run is about to cost, of which budget, by whose prices; None: nobody charges for it,
    as far as is known."""
    estimate = run.facts["estimate"]
    if not estimate.prices and run.settings["service"]["kind"] != "tinker":
        return None
    limit = run.config.budget_usd
    budget = "" if limit is None else f"; budget {dollars(limit)}"
    source = f"; prices: {estimate.prices.source}" if estimate.prices else ""
    return f"{estimate.sentence()}{budget}{source}"


def _numbers(metrics: dict[str, float]) -> str:
    """Metrics with their values, each with its standard error if there is one."""
    errors = {name: metrics.get(name + STDERR) for name in metrics}
    return "  ".join(
        f"{name} {value:.4f}" + (f" ± {error:.4f}" if (error := errors[name]) is not None else "")
        for name, value in metrics.items()
        if not name.endswith(STDERR)
    )


def _shorten(text: str, limit: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"
