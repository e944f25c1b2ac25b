"""One trial: the training loop of a single run, with a hook that reports to Optuna."""

import asyncio
import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.command import launch, naming
from sft.config.saved import from_saved
from sft.config.schema import Settings
from sft.cost.budget import Budget as Money
from sft.errors import BadInput
from sft.files import read_yaml
from sft.hooks import BaseHook, Hook, Run, RunResult, Status
from sft.record import metrics
from sft.record.checkpoints import CheckpointRecord
from sft.sweeps.display import Display
from sft.sweeps.scheduling.curves import evaluation_behind
from sft.sweeps.study.endings import Ending, Outcome, judge, value_of
from sft.sweeps.study.ledger import ERROR, PAUSES, SHORT, USD, Ledger, Turn, saved_as
from sft.sweeps.study.standing import DIVERGED, EVERY, STEPS
from sft.tracking import trackers
from sft.tracking.hook import PARENT_RUN

# What is tried once more, by the name that RunResult.error begins with: errors of the service or
# the network, not of the configuration. The loop has resumed a lost session several times by then.
INFRASTRUCTURE = (
    "ServiceLost",
    "ServiceUnavailable",
    "RetryableException",
    "API",
    "InternalServerError",
    "RateLimitError",
    "ConnectionError",
    "ConnectionResetError",
    "TimeoutError",
)


@dataclass(frozen=True)
class Common:
    """What all trials of a sweep have in common, in whatever process they run."""

    study_name: str
    folder: Path
    """Holds the run directories of the trials."""
    metrics: list[str]
    repeats: int
    base_url: str | None
    """Of the sweep's local service; None if the trials use another one."""
    parent_run_id: str | None
    """Of the sweep's own MLflow run."""
    command: list[str]
    """The overrides that all trials share."""
    date: str
    """The day on which the sweep began, for chat templates that write one."""
    eval_every: int = 0
    """Steps between evaluations of trials that pause, if their settings have none."""
    is_seldom: bool = False
    """Whether the metric is measured every `evaluators.every` steps, not every `eval_every`."""


@dataclass(frozen=True)
class Shared:
    """What the trials of one process share."""

    common: Common
    ledger: Ledger
    display: Display
    spend: Callable[[int, int], bool] = lambda number, tokens: True
    """Takes a trial's number and its tokens so far; False once the sweep's budget of them is used
    up."""
    money: Money = field(default_factory=lambda: Money("hydra.sweeper.budget_usd", None))
    """What the sweep may cost."""


class TrialRun:
    """The runs of one trial (one, or as many as there are repeats)."""

    def __init__(self, shared: Shared, turn: Turn, settings: Settings):
        self.shared = shared
        self.common = shared.common
        self.trial = turn.trial
        self.number = turn.trial.number
        self.until = turn.until
        self._saved = turn.saved
        self._noted: dict[int, int] = {}  # repeat -> step of its last checkpoint
        self.tokens = 0
        self._stood_at = max(turn.trial.user_attrs.get(PAUSES, []), default=0)
        """The last step at which it paused."""
        self._settings = settings
        self._runs: dict[int, Run] = {}
        self._stop: tuple[str, Status] | None = None
        self._measured: dict[int, dict[int, float]] = {}  # step -> repeat -> value
        self._told: set[int] = set()  # steps at which every repeat was measured
        self._reports: list[asyncio.Future[None]] = []

    def stop(self, reason: str, status: Status) -> None:
        """Ask all runs to end between two steps, with a checkpoint."""
        if self._stop is None:
            self._stop = (reason, status)
        for run in self._runs.values():
            run.stop(*self._stop)

    async def execute(self) -> Ending:
        """Train, and tell Optuna and the display how it ended, or where it paused."""
        while True:
            outcomes = await self._runs_of_it()
            ending = judge(outcomes, self.common.metrics, self._settings)
            if ending.paused_at is None or ending.paused_at in self._told:
                break
            self._stood_at = ending.paused_at  # nobody could tell what it promises: on to the next
        if ending.diverged and not self._measured:
            await self._report_training(outcomes)
        facts = self._facts(outcomes, ending)
        ledger = self.shared.ledger
        if ending.paused_at is not None:
            await ledger.call(ledger.pause, self.trial, ending.paused_at, facts)
        elif ending.state is None:
            await ledger.call(ledger.note, self.trial, facts)
        else:
            await ledger.call(ledger.finish, self.trial, ending.state, ending.values, facts)
        self.shared.display.ended(self.number, ending)
        return ending

    async def _runs_of_it(self) -> Sequence[Outcome]:
        self.tokens = 0
        repeats = range(self.common.repeats)
        outcomes = await asyncio.gather(
            *(self._attempts(repeat) for repeat in repeats), return_exceptions=True
        )
        await asyncio.gather(*self._reports)
        return outcomes

    # One run.

    async def _attempts(self, repeat: int) -> RunResult:
        problem: str | None
        for attempt in (1, 2):
            try:
                result = await self._train(repeat)
            except (BadInput, asyncio.CancelledError):
                self.stop("another run of the trial failed", "KILLED")
                raise
            except Exception as error:
                if attempt == 2 or not is_infrastructure(f"{type(error).__name__}: {error}"):
                    self.stop("another run of the trial failed", "KILLED")
                    raise
                problem = str(error)
            else:
                retry = result.status == "FAILED" and is_infrastructure(result.error)
                if attempt == 2 or not retry or self._stop:
                    if result.status == "FAILED":
                        self.stop("another run of the trial failed", "KILLED")
                    return result
                problem = result.error
            self.shared.display.message(f"trial {self.number}: {problem}; trying once more")
        raise AssertionError("unreachable")

    async def _train(self, repeat: int) -> RunResult:
        directory = self.directory(repeat)
        settings = self._settings_of(repeat, directory)
        hooks: list[Hook] = [_Follower(self, repeat)]
        tags = {"sweep.study": self.common.study_name, "sweep.trial": str(self.number)}
        if self.common.repeats > 1:
            tags["sweep.repeat"] = str(repeat)
        if self.common.parent_run_id is not None:
            tags[PARENT_RUN] = self.common.parent_run_id
        hooks += trackers.hooks(settings, tags)
        base_url = self.common.base_url if settings.service.kind == "local" else None
        return await launch.train(
            settings, directory, hooks, base_url=base_url, budgets=[self.shared.money]
        )

    def directory(self, repeat: int) -> Path:
        """The run directory of a repeat: NUMBER, or NUMBER-REPEAT if there are several."""
        name = str(self.number) if self.common.repeats == 1 else f"{self.number}-{repeat}"
        return self.common.folder / name

    def _settings_of(self, repeat: int, directory: Path) -> Settings:
        """The run's own saved config if it has begun: what a run is does not change on the way.

        A run that began on another machine goes on from its last checkpoint.
        """
        saved = directory / "config.yaml"
        if saved.exists():
            return from_saved(read_yaml(saved), str(saved))
        settings = self._settings
        if (elsewhere := self._saved.get(str(repeat))) is not None:
            start = {"load": elsewhere["path"], "step": elsewhere["step"]}
            checkpoint = dataclasses.replace(settings.checkpoint, **start)
            settings = dataclasses.replace(settings, checkpoint=checkpoint)
        return dataclasses.replace(
            settings,
            run_name=naming.joined(
                [directory.name, *(naming.in_short(k, v) for k, v in self.trial.params.items())]
            ),
            date=settings.date or self.common.date,
            eval_every=settings.eval_every or self.common.eval_every,
            seed=settings.seed + repeat,
            lora=dataclasses.replace(settings.lora, seed=settings.lora.seed + repeat),
        )

    # What the hooks say.

    def begun(self, repeat: int, run: Run) -> None:
        """A run is about to submit its first step."""
        self._runs[repeat] = run
        run.pause_at = self._pause(run)
        ledger, steps = self.shared.ledger, run.facts["steps"]
        facts = {STEPS: steps, EVERY: self._every(run)}
        noted = ledger.call(ledger.note, self.trial, facts)
        self._reports.append(asyncio.ensure_future(noted))
        if self._stop:
            run.stop(*self._stop)
        self.shared.display.started(self.number, self.trial.params, run.facts.get("steps"))
        # Evaluations from before an interruption that Optuna may not have heard of.
        for row in metrics.read(run.directory / "metrics.jsonl"):
            if row["step"] <= run.start_step:
                self.measured(repeat, row["step"], row, shown=False)
            self._spend(row)

    def _pause(self, run: Run) -> int | None:
        """The step of the evaluation at which `run` pauses; None: it trains to its end."""
        steps, every = run.facts["steps"], self._every(run)
        if self.until >= 1.0 or not every:
            return None
        # A trial pauses once at a step: whoever thaws it means it to go on. By hand it may have
        # gone on since.
        further = max(self._stood_at, run.start_step - 1) // every * every + every
        step = max(evaluation_behind(self.until, steps, every), further)
        return step if step < steps else None

    def _every(self, run: Run) -> int:
        """Steps between two measurements of the metric."""
        config = run.config
        return config.infrequent_eval_every if self.common.is_seldom else config.eval_every

    def saved(self, repeat: int, record: CheckpointRecord) -> None:
        """Note a checkpoint, for another machine that may have to go on from it."""
        if record.step < self._noted.get(repeat, 0):
            return  # an earlier one, which has got its evaluation
        self._noted[repeat] = record.step
        ledger = self.shared.ledger
        fact = saved_as(repeat, record.state_path, record.step)
        self._reports.append(asyncio.ensure_future(ledger.call(ledger.note, self.trial, fact)))

    def progressed(self, step: int, row: dict[str, float]) -> None:
        """A run has computed a step."""
        self.shared.display.progressed(self.number, step, row)
        self._spend(row)

    def _spend(self, row: dict[str, float]) -> None:
        tokens = int(row.get("tokens/step", 0))
        self.tokens += tokens
        if not self.shared.spend(self.number, self.tokens):
            # Where trials pause, a larger budget goes on with it.
            pauses = self.shared.ledger.pauses
            reason = "the sweep's budget of tokens is used up"
            self.stop(reason, "KILLED" if pauses else "PRUNED")

    def measured(
        self, repeat: int, step: int, row: dict[str, float], *, shown: bool = True
    ) -> None:
        """Report the mean of an evaluation once every repeat has made it."""
        if len(self.common.metrics) > 1 or self.common.metrics[0] not in row:
            return
        values = self._measured.setdefault(step, {})
        values[repeat] = row[self.common.metrics[0]]
        if len(values) < self.common.repeats:
            return
        self._told.add(step)
        value = statistics.fmean(values.values())
        if shown:
            self.shared.display.evaluated(self.number, step, value)
        steps = [run.facts.get("steps") for run in self._runs.values()]
        report = self._report(step, value, last=bool(steps) and steps[0] == step)
        self._reports.append(asyncio.ensure_future(report))

    async def _report(self, step: int, value: float, last: bool) -> None:
        ledger = self.shared.ledger
        try:
            prune = await ledger.call(ledger.report, self.trial, step, value, last)
        except Exception as error:  # a storage that is away for a while: the trial goes on
            self.shared.display.message(f"trial {self.number}: not reported ({error})")
            return
        if prune:
            self.stop(f"pruned at step {step}", "PRUNED")

    async def _report_training(self, outcomes: Sequence[Outcome]) -> None:
        """A trial that diverged before its first evaluation: a pruned trial needs some report."""
        key = self.common.metrics[0].replace("eval/", "train/")
        values = [o.first[key] for o in outcomes if isinstance(o, RunResult) and key in o.first]
        finite = [value for value in values if math.isfinite(value)]
        if finite and len(self.common.metrics) == 1:
            await self._report(0, statistics.fmean(finite), last=True)

    # How it ended.

    def _facts(self, outcomes: Sequence[Outcome], ending: Ending) -> dict[str, Any]:
        results = [o for o in outcomes if isinstance(o, RunResult)]
        facts: dict[str, Any] = {
            "tokens": sum(result.tokens for result in results),
            # Of this process and of those that it continues.
            "seconds": self.trial.user_attrs.get("seconds", 0.0)
            + max((result.seconds for result in results), default=0.0),
            "steps": max((result.steps for result in results), default=0),
            "directories": [str(self.directory(r)) for r in range(self.common.repeats)],
        }
        costs = [result.usd for result in results if result.usd is not None]
        key = self.shared.money.key
        facts |= {USD: sum(costs)} if costs else {}
        facts[SHORT] = any((result.reason or "").startswith(key) for result in results)
        # Of the process that began it: another command may have gone on with the study.
        facts["command"] = self.trial.user_attrs.get("command", self.common.command)
        facts["runs"] = [self._of_run(repeat, o) for repeat, o in enumerate(outcomes)]
        if ending.values and len(results) > 1:
            facts["values"] = [
                [value_of(metric, result, self._settings) for result in results]
                for metric in self.common.metrics
            ]
        if ending.error:
            facts[ERROR] = ending.error
        if ending.diverged:
            facts[DIVERGED] = True
        return facts

    def _of_run(self, repeat: int, outcome: Outcome) -> dict[str, Any]:
        """Seeds of one repeat and its last checkpoint, whose value counts.

        And, if there is one, an earlier checkpoint that is better in the run's `metric`.
        """
        settings = self._settings_of(repeat, self.directory(repeat))
        facts: dict[str, Any] = {"seed": settings.seed, "lora.seed": settings.lora.seed}
        if not isinstance(outcome, RunResult) or not outcome.checkpoints:
            return facts
        last, best = outcome.checkpoints[-1], outcome.best
        facts |= {"state": last.state_path, "sampler": last.sampler_path}
        if best is not None and best.step != last.step:
            facts["best"] = {
                "step": best.step,
                "sampler": best.sampler_path,
                "metric": settings.metric,
                "value": (best.evaluation or {})[settings.metric],
            }
        return facts


class _Follower(BaseHook):
    """One run's events, passed on to its trial."""

    def __init__(self, trial_run: TrialRun, repeat: int):
        self._trial = trial_run
        self._repeat = repeat

    def on_start(self, run: Run) -> None:
        self._trial.begun(self._repeat, run)

    def on_progress(self, step: int, row: dict[str, float]) -> None:
        self._trial.progressed(step, row)

    def on_metrics(self, step: int, row: dict[str, float], timestamp_ms: int) -> None:
        self._trial.measured(self._repeat, step, row)

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        self._trial.saved(self._repeat, record)

    def on_message(self, text: str) -> None:
        self._trial.shared.display.message(f"trial {self._trial.number}: {text}")


def is_infrastructure(error: str | None) -> bool:
    """Whether an error is the service's or the network's, as `INFRASTRUCTURE` names them."""
    return (error or "").startswith(INFRASTRUCTURE)
