"""Evaluations beside the steps: on snapshots, and never at the cost of the run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput, Sentence
from sft.evaluation.sampler import beside
from sft.evaluators import Evaluator, NLLEvaluator, claim, name_of, numbers
from sft.hooks import FailedEvaluation
from sft.record.examples import STDERR, Examples, standard_errors
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

    def before(self, step: int) -> list[asyncio.Task[None]]:
        """Those of earlier weights."""
        return [task for of, task in self.tasks.items() if of < step]

    async def start(self, step: int, evaluators: list[Evaluator] | None = None) -> None:
        """Start the evaluations due after `step` updates, on a snapshot taken in the queue."""
        due = (
            self.progress.plan.due(self.progress.run.config, step)
            if evaluators is None
            else evaluators
        )
        measured = self.progress.state.metrics.rows.get(step, {})
        # By the process that this one resumes.
        due = [
            e for e in due if not (isinstance(e, NLLEvaluator) and f"{e.prefix}/nll" in measured)
        ]
        if not due:
            return
        if self.measured.no_snapshots:
            await self._not_measured(step, due, NoSnapshots(self.measured.no_snapshots))
            return
        while len(pending := [t for t in self.tasks.values() if not t.done()]) >= (MOST_PENDING):
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        work = self._measure(step, self.queue.snapshot(), due)
        self.tasks[step] = self.group.create_task(work)

    async def _measure(self, step: int, snapshot: Request, evaluators: list[Evaluator]) -> None:
        """Measure the weights after `step` updates. What cannot be measured spoils nothing else."""
        try:
            sampling_client = await snapshot
        except Exception as error:
            cause = first_error(error)
            if status_of(cause) is not None and not self.progress.is_over(cause, "snapshot"):
                self.measured.no_snapshots = describe(cause)
                raise NoSnapshots(self.measured.no_snapshots) from cause
            await self._not_measured(step, evaluators, error)
            return
        with beside(sampling_client) as client:
            await self._measure_with(client, step, evaluators)

    async def _measure_with(
        self, client: tinker.SamplingClient, step: int, evaluators: list[Evaluator]
    ) -> None:
        metrics: dict[str, float] = {}
        examples: dict[str, Examples] = {}
        for evaluator in evaluators:
            try:
                measured = numbers(await evaluator(client))
                found = _examples_of(evaluator)
                measured |= standard_errors(found)
            except Exception as error:
                await self._not_measured(step, [evaluator], error)
                continue
            try:
                claim(self.measured.writers, evaluator, measured)
            except BadInput as error:
                if step == self.progress.run.start_step:
                    raise
                await self._not_measured(step, [evaluator], error)
                continue
            metrics |= measured
            examples |= found
            self.progress.worked.add("evaluation")
            if table := getattr(evaluator, "table", None):
                name = name_of(evaluator)
                if step == 0:
                    self.measured.tables[f"{name}@start"] = table
                self.measured.tables[name] = table
                for hook in self.progress.hooks:
                    hook.on_table(name, step, table)
        if not metrics or self.progress.diverged:
            return
        self.progress.write(step, metrics)
        for record in self.progress.state.checkpoints.records:
            if record.step == step:
                self.progress.attach(record)
        if step < self.progress.plan.total_steps:
            self._stop_early()
        if examples:
            await self._keep(step, examples)

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
        """The steps of the best evaluation so far, and of the last one of each metric."""
        config, rows = self.progress.run.config, dict(self.progress.state.metrics.rows)
        last = {name: step for step, row in rows.items() for name in row if name.endswith(STDERR)}
        series = {step: row[config.metric] for step, row in rows.items() if config.metric in row}
        choose = min if config.direction == "minimize" else max
        best = [choose(series, key=series.__getitem__)] if series else []
        return [*best, *last.values()]

    async def _not_measured(self, step: int, evaluators: list[Evaluator], error: Exception) -> None:
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
        values = [sign * value for _, value in self.progress.state.metrics.series(config.metric)]
        if (
            patience
            and len(values) > patience
            and min(values[-patience:]) >= min(values[:-patience])
        ):
            better = "lower" if sign == 1 else "higher"
            self.progress.run.stop(
                f"early stopping: {config.metric} no {better} for {patience} evaluations"
            )


def _examples_of(evaluator: Evaluator) -> Mapping[str, Examples]:
    """What an evaluator's metrics are made of, if it says so in the form of this product."""
    found = getattr(evaluator, "examples", None)
    if isinstance(found, Mapping) and all(isinstance(one, Examples) for one in found.values()):
        return dict(found)
    return {}
