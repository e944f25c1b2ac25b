"""Evaluations beside the steps: on snapshots, and never at the cost of the run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from sft.config.schema import default
from sft.cost.meter import Asked
from sft.cost.usage import NOTHING, Usage
from sft.errors import Sentence, nearest
from sft.evaluation.interface import usage_of
from sft.evaluation.sampler import beside
from sft.evaluators import (
    Evaluator,
    NLLEvaluator,
    claim,
    examples_of,
    name_of,
    numbers,
    table_of,
)
from sft.hooks import FailedEvaluation
from sft.record.checkpoints import best
from sft.record.examples import STDERR, Examples, standard_errors
from sft.record.metrics import evaluated
from sft.run.failures import first_error, is_from, status_of
from sft.run.progress import Progress, describe
from sft.run.training_queue import Request, TrainingQueue

if TYPE_CHECKING:
    import tinker

MOST_PENDING = 4
"""Evaluations that may run beside training; a further one waits, for each holds a snapshot."""


class NoSnapshots(Sentence):
    """The service refuses to make snapshots: a run goes on without evaluations, in a new session,
    since the place of the refused request in this one's queue stays open."""


@dataclass
class Measured:
    """What the evaluations of a run have given, through all of its attempts."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The last rows of each evaluator's table by name, and the first under `NAME@start`."""
    failed: list[FailedEvaluation] = field(default_factory=list)
    writers: dict[str, str] = field(default_factory=dict)
    """The evaluator that each metric is of."""
    said: set[str] = field(default_factory=set)
    """What is amiss with evaluators, and not said again."""
    no_snapshots: str | None = None
    """Why the service makes no snapshots; None if it does."""


@dataclass
class Evaluations:
    """Those of one attempt."""

    progress: Progress
    measured: Measured
    queue: TrainingQueue
    group: asyncio.TaskGroup
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    """By step."""
    saving: set[int] = field(default_factory=set)
    """Steps whose checkpoints are on their way."""

    def before(self, step: int) -> list[asyncio.Task[None]]:
        """Those of earlier weights."""
        return [task for of, task in self.tasks.items() if of < step]

    def price(self, step: int, evaluators: list[Evaluator] | None = None) -> float:
        """What the evaluations due after `step` updates cost at most, in USD; of an evaluator that
        does not say, what its dearest call so far did."""
        meter, usd = self.progress.meter, 0.0
        for evaluator in self._due(step, evaluators):
            usage = usage_of(evaluator)
            known = meter.dearest.get(name_of(evaluator), 0.0)
            usd += known if usage is None else meter.prices.usd(usage)
        return usd

    def most(self, step: int, evaluators: list[Evaluator] | None = None) -> Usage:
        """What the evaluations due after `step` updates use at most, as far as they say it."""
        said = [usage_of(evaluator) for evaluator in self._due(step, evaluators)]
        return reduce(add, filter(None, said), NOTHING)

    def _due(self, step: int, evaluators: list[Evaluator] | None = None) -> list[Evaluator]:
        """Those due after `step` updates, but for what the process that this one resumes has
        measured."""
        due = self.progress.plan.due(self.progress.run.config, step)
        due = due if evaluators is None else evaluators
        measured = self.progress.state.metrics.rows.get(step, {})
        return [
            e for e in due if not (isinstance(e, NLLEvaluator) and f"{e.prefix}/nll" in measured)
        ]

    async def start(self, step: int, evaluators: list[Evaluator] | None = None) -> None:
        """Start the evaluations due after `step` updates, on a snapshot taken in the queue."""
        if not (due := self._due(step, evaluators)):
            return
        if self.measured.no_snapshots:
            self.progress.meter.measured(step)
            await self._not_measured(step, due, NoSnapshots(self.measured.no_snapshots))
            return
        while len(pending := [t for t in self.tasks.values() if not t.done()]) >= (MOST_PENDING):
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        work = self._measure(step, self.queue.snapshot(), due)
        self.tasks[step] = self.group.create_task(work)

    async def _measure(self, step: int, snapshot: Request, evaluators: list[Evaluator]) -> None:
        """Measure the weights after `step` updates. What cannot be measured spoils nothing else."""
        try:
            await self._measure_on(snapshot, step, evaluators)
        finally:
            self.progress.meter.measured(step)

    async def _measure_on(self, snapshot: Request, step: int, evaluators: list[Evaluator]) -> None:
        try:
            sampling_client = await snapshot
        except Exception as error:
            cause = first_error(error)
            if status_of(cause) is not None and not self.progress.is_over(cause, "snapshot"):
                self.measured.no_snapshots = describe(cause)
                raise NoSnapshots(self.measured.no_snapshots) from cause
            await self._not_measured(step, evaluators, error)
            return
        asked = Asked(self.progress.meter, step)
        try:
            with beside(sampling_client, billed=asked) as client:
                await self._measure_with(client, step, evaluators, asked)
        except BaseException:
            self.progress.meter.given_up(step)
            raise

    async def _measure_with(
        self,
        client: tinker.SamplingClient,
        step: int,
        evaluators: list[Evaluator],
        asked: Asked,
    ) -> None:
        metrics: dict[str, float] = {}
        examples: dict[str, Examples] = {}
        for evaluator in evaluators:
            before = asked.usd
            try:
                measured = numbers(await evaluator(client))
                asked.learn(name_of(evaluator), before)
                found, refused = examples_of(evaluator, measured)
                measured |= standard_errors(found)
                claim(self.measured.writers, evaluator, measured)
            except BaseException as error:
                if not _is_of_an_evaluator(error):
                    raise
                await self._not_measured(step, [evaluator], error)
                continue
            metrics |= measured
            examples |= found
            for what, why in refused.items():
                given = f"the examples of {what} that '{name_of(evaluator)}' gives"
                self._say_once(f"{given} are not kept", why)
            self.progress.worked.add("evaluation")
            self._hand_on_table(step, evaluator)
        if self.progress.diverged:
            return
        self._say_if_not_measured(step, metrics)
        if not metrics:
            return
        self.progress.write(step, metrics)
        for record in self.progress.state.checkpoints.records:
            if record.step == step:
                self.progress.attach(record)
        if step < self.progress.plan.total_steps:
            self._stop_early()
        if examples:
            await self._keep(step, examples)

    def _hand_on_table(self, step: int, evaluator: Evaluator) -> None:
        """Tell hooks the table of an evaluator, if it has one."""
        name = name_of(evaluator)
        try:
            if (table := table_of(evaluator)) is None:
                return
            for hook in self.progress.hooks:
                hook.on_table(name, step, table)
        except Exception as error:
            self._say_once(f"the table of '{name}' is not kept", describe(error))
            return
        if step == 0:
            self.measured.tables[f"{name}@start"] = table
        self.measured.tables[name] = table

    def _say_if_not_measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Before the first step and after the last, say if the run goes by what is not measured."""
        config, plan = self.progress.run.config, self.progress.plan
        if step not in (0, plan.total_steps) or self._values(config.metric):
            return
        if math.isfinite(value := metrics.get(config.metric, math.inf)):
            return
        asked_for = config.metric != default("metric") or config.early_stopping_patience
        failed = any(one.step == step for one in self.measured.failed)
        if failed or not (asked_for or config.metric in metrics):
            return
        there = evaluated(metrics)
        what = f"is {value}" if config.metric in metrics else "was not measured"
        others = f"; measured: {', '.join(there) or 'nothing'}{nearest(config.metric, there)}"
        self.progress.tell(
            f"metric={config.metric} {what} at step {step}{others}. Without it no checkpoint is "
            "the best, and early stopping has nothing to go by"
        )

    def _values(self, metric: str) -> dict[int, float]:
        """The values of `metric` so far, by step; those that are no finite number say nothing."""
        series = self.progress.state.metrics.series(metric)
        return {step: value for step, value in series if math.isfinite(value)}

    async def _keep(self, step: int, examples: Mapping[str, Examples]) -> None:
        """Keep what an evaluation is made of; if that fails, the run goes on without."""
        add = self.progress.state.examples.add
        try:
            await asyncio.to_thread(add, step, examples, self._kept)
        except Exception as error:
            self.progress.tell(
                f"what the evaluation at step {step} is made of could not be kept: "
                f"{describe(error)}"
            )

    def _kept(self) -> list[int]:
        """The steps of the best evaluation so far, of the best checkpoint and of those that are on
        their way, and of the last evaluation of each metric."""
        config, rows = self.progress.run.config, dict(self.progress.state.metrics.rows)
        last = {
            name: step
            for step, row in rows.items()
            for name in row
            if name.startswith("eval/") or name.endswith(STDERR)
        }
        values = {step: row.get(config.metric, math.nan) for step, row in rows.items()}
        series = {step: value for step, value in values.items() if math.isfinite(value)}
        choose = min if config.direction == "minimize" else max
        steps = [choose(series, key=series.__getitem__)] if series else []
        saved = best(self.progress.state.checkpoints.records, config.metric, config.direction)
        steps += [saved.step] if saved else []
        return [*steps, *self.saving, *last.values()]

    def _say_once(self, what: str, why: str) -> None:
        """Say `what` is amiss once a run, with the reason of the first time."""
        if what not in self.measured.said:
            self.measured.said.add(what)
            self.progress.tell(f"{what}: {why}")

    async def _not_measured(
        self, step: int, evaluators: list[Evaluator], error: BaseException
    ) -> None:
        """Say and record that an evaluation failed; training goes on.

        Raises the error of a lost service: the attempt ends, and the next one measures again.
        """
        cause = first_error(error)
        if self.progress.is_over(cause, "evaluation") and is_from(
            cause, self.progress.run.config.base_url
        ):
            raise cause
        await self.progress.reached(step)
        if self.progress.diverged:  # weights that are not finite measure nothing
            return
        self.progress.state.log.error("evaluation at step %d", step, exc_info=cause)
        for evaluator in evaluators:
            failed = FailedEvaluation(step, name_of(evaluator), describe(cause))
            self.measured.failed.append(failed)
            self.progress.tell(
                f"the evaluation '{failed.name}' at step {step} failed: {failed.error}; "
                "training goes on"
            )
        self.progress.state.record(failed_evaluations=[asdict(f) for f in self.measured.failed])

    def _stop_early(self) -> None:
        config = self.progress.run.config
        patience, sign = config.early_stopping_patience, 1 if config.direction == "minimize" else -1
        values = [sign * value for value in self._values(config.metric).values()]
        if (
            patience
            and len(values) > patience
            and min(values[-patience:]) >= min(values[:-patience])
        ):
            better = "lower" if sign == 1 else "higher"
            self.progress.run.stop(
                f"early stopping: {config.metric} no {better} for {patience} evaluations"
            )


def _is_of_an_evaluator(error: BaseException) -> bool:
    """Whether an error is an evaluator's own, whatever it is, and not that the run is to end."""
    if isinstance(error, asyncio.CancelledError):
        this = asyncio.current_task()
        return this is not None and not this.cancelling()
    return isinstance(error, Exception | SystemExit)
