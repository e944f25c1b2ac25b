"""How a trial ended, judged by how its runs did: one, or as many as there are repeats."""

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from sft.config.schema import Settings
from sft.errors import BadInput
from sft.hooks import RunResult

Outcome = RunResult | BaseException
"""Of one run."""


@dataclass
class Ending:
    """What Optuna and the display are told at the end of a trial."""

    state: TrialState | None
    """None: interrupted or paused, and to be continued."""
    values: list[float] | None = None
    """Of a complete trial, a value a metric: the mean over its repeats."""
    error: str | None = None
    diverged: bool = False
    paused_at: int | None = None
    """The step at which it stands still, if it does."""


def judge(outcomes: Sequence[Outcome], metrics: Sequence[str], settings: Settings) -> Ending:
    """The ending of a trial with these outcomes.

    One run that diverged or failed decides for all: what comes first here wins.

    Args:
        outcomes: an outcome a run.
        metrics: what the sweep compares.
        settings: of the trial; numbers among them can be metrics.
    """
    errors = [o for o in outcomes if isinstance(o, BaseException)]
    results = [o for o in outcomes if isinstance(o, RunResult)]
    if any(isinstance(error, asyncio.CancelledError) for error in errors):
        return Ending(None)
    for result in results:
        if result.diverged:
            return Ending(TrialState.PRUNED, error=result.reason, diverged=True)
    for error in errors:
        kind = "" if isinstance(error, BadInput) else f"{type(error).__name__}: "
        return Ending(TrialState.FAIL, error=f"{kind}{error}")
    for result in results:
        if result.status == "FAILED":
            return Ending(TrialState.FAIL, error=result.error or result.reason)
    if any(result.status == "PRUNED" for result in results):
        return Ending(TrialState.PRUNED, error=results[0].reason)
    if any(result.status == "KILLED" for result in results):
        return Ending(None)
    if paused := [result.steps for result in results if result.status == "PAUSED"]:
        return Ending(None, paused_at=max(paused))
    return _complete(results, metrics, settings)


def _complete(results: Sequence[RunResult], metrics: Sequence[str], settings: Settings) -> Ending:
    values = []
    for metric in metrics:
        measured = [value_of(metric, result, settings) for result in results]
        known = [value for value in measured if value is not None]
        if len(known) < len(measured):
            there = ", ".join(sorted(results[0].last)) or "nothing"
            return Ending(
                TrialState.FAIL,
                error=f"hydra.sweeper.metric={metric}: was not measured; there is {there}.",
            )
        values.append(statistics.fmean(known))
    if not all(math.isfinite(value) for value in values):
        return Ending(TrialState.PRUNED, error="the metric is not finite", diverged=True)
    return Ending(TrialState.COMPLETE, values)


def value_of(metric: str, result: RunResult, settings: Settings) -> float | None:
    """A metric's last value; also `tokens`, `seconds` and numbers of the config (lora.rank)."""
    if metric in result.last:
        return float(result.last[metric])
    if metric in ("tokens", "seconds"):
        return float(getattr(result, metric))
    value: Any = settings
    for part in metric.split("."):
        value = getattr(value, part, None)
    return float(value) if isinstance(value, int | float) else None
