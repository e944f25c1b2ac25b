"""One attempt at a run: steps in a pipeline, everything else beside them.

The order in which requests are queued (`sft/training_queue.py`) is the order in which the service
computes them, so that a save or a snapshot right behind its step's `optim_step` holds exactly that
step's weights, while the next step is queued already.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sft import pauses, schedules
from sft.batches import Batch, prefetch
from sft.checkpoints import Cadence, CheckpointRecord, best
from sft.client import first_error, is_from, is_lost, optimizer_parameters, status_of, words_of
from sft.custom import reproducible
from sft.errors import BadInput
from sft.evaluators import Evaluator, NLLEvaluator, claim, name_of, numbers
from sft.hooks import FailedEvaluation, Hook, Run, RunResult
from sft.metrics import service_metrics, training_metrics
from sft.secrets import mask_urls
from sft.training_queue import NeverWorked, Request, TrainingQueue

if TYPE_CHECKING:
    from sft.client import Connection
    from sft.plan import Plan
    from sft.rundir import RunDirectory

PENDING_EVALUATIONS = 4
"""Evaluations that may run beside training; a further one waits, for each holds a snapshot."""


class NotSaved(Exception):
    """The service has refused to save the final checkpoint; the message says what to do."""


class NoSnapshots(Exception):
    """The service refuses to make snapshots: a run goes on without evaluations, in a new session,
    since the place of the refused request in this one's queue stays open."""


@dataclass
class Submitted:
    """A step on its way."""

    batch: Batch
    learning_rate: float
    tokens: int
    """Tokens trained on once it is applied."""
    forward_backward: Request
    optim_step: Request


@dataclass
class Loop:
    """A run in this process; `train` makes one attempt on one session of the service."""

    run: Run
    plan: Plan
    state: RunDirectory
    hooks: tuple[Hook, ...]
    applied: int = 0
    """Steps whose results have arrived."""
    started: bool = False
    diverged: bool = False
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    writers: dict[str, str] = field(default_factory=dict)
    """The evaluator that each metric is of."""
    failed_evaluations: list[FailedEvaluation] = field(default_factory=list)
    no_snapshots: str | None = None
    """Why the service makes none, where it does not."""
    worked: set[str] = field(default_factory=set)
    """Kinds of requests that the service has answered well in this process."""
    first_nll: float | None = None
    steps_above: int = 0

    async def train(self, connection: Connection) -> None:
        """Train from the last checkpoint that the service still has, to the end or to a stop."""
        config, plan = self.run.config, self.plan
        start = await self._start(connection)
        self.finished_steps = asyncio.Condition()
        self.evaluations: dict[int, asyncio.Task[None]] = {}
        self.last_save: asyncio.Task[None] | None = None
        self.connection = connection
        ahead = config.submit_ahead + 1
        self.slots = asyncio.Semaphore(ahead)
        prefetched = prefetch(
            plan.data,
            start_step=start,
            total_steps=plan.total_steps,
            seed=config.seed,
            ahead=ahead + 1,
        )
        try:
            async with prefetched as batches, asyncio.TaskGroup() as self.group:
                steps: asyncio.Queue[Submitted | None] = asyncio.Queue()
                collector = self.group.create_task(self._collect(steps))
                await self._submit_all(start, batches, steps)
                await steps.put(None)
                await collector
        finally:
            self.queue.give_up()

    async def _start(self, connection: Connection) -> int:
        """Make the training client; returns the first step to train."""
        metadata = {"sft_run": self.run.name}
        record = None
        for record in reversed(self.state.checkpoints.records):
            if await connection.api.weights_info(record.state_path) is not None:
                break
            self.tell(f"checkpoint {record.name} is no longer on the service")
            record = None
        if record is not None:
            client = await connection.resume(record.state_path, metadata)
            start, self.tokens = record.step, record.tokens
            self.tell(f"resuming from checkpoint {record.name}, {start} steps done")
        else:
            client = await connection.create(self.run.config, metadata)
            start, self.tokens = 0, 0
        pauses.follow(client, self.tell)
        self.queue = TrainingQueue(client, self.worked)
        self.state.metrics.truncate(start)
        self.state.batches.truncate(start)
        self.applied = self.run.start_step = start
        before = self.failed_evaluations or [
            FailedEvaluation(**failed) for failed in self.state.facts.get("failed_evaluations", [])
        ]
        self.failed_evaluations = [failed for failed in before if failed.step < start]
        series = self.state.metrics.series("train/nll")
        self.first_nll = series[0][1] if series else None
        config = self.run.config
        self.cadence = Cadence(
            config.save_every,
            config.save_every_tokens,
            config.save_every_seconds,
            config.rolling_save_every,
        )
        self.cadence.resume(self.tokens)
        self._begin()
        return start

    def _begin(self) -> None:
        """Tell the hooks, once, that the run has begun."""
        if self.started:
            return
        self.started = True
        for sentence in self.run.facts.get("without_effect", ()):
            self.state.log.warning(sentence)
        for hook in self.hooks:
            hook.on_start(self.run)
        for note in self.plan.notes:
            self.tell(note)
        if not reproducible(self.run.settings):
            self.tell(
                "this run cannot be reproduced: its dataset builder was made in a script or a "
                "function; move it to a module of its own"
            )

    async def _submit_all(self, start: int, batches: Any, steps: Any) -> None:
        """Submit every step from `start` on, with the saves and snapshots due behind each."""
        plan = self.plan
        step = start
        recorded = {record.step for record in self.state.checkpoints.records}
        await self._evaluate(start)  # also after the last step: that evaluation may be missing
        saved_at = start if start in recorded else -1
        while step < plan.total_steps:
            await self.slots.acquire()
            if self.run.stopping:
                break
            batch = await batches.get()
            if isinstance(batch, Exception):
                raise batch
            await steps.put(self._submit(batch))
            step += 1
            kind = "final" if step == plan.total_steps else self.cadence.due(step, self.tokens)
            if kind:
                await self._save(step, kind)
                saved_at = step
            await self._evaluate(step)
        stop = self.run.stopping
        if stop and not self.diverged and saved_at != step and step > 0:
            finished = stop.status == "FINISHED"
            await self._save(step, "final" if finished else "interrupted")
            if finished:
                await self._evaluate(step, self.plan.evaluators + self.plan.infrequent)

    def _submit(self, batch: Batch) -> Submitted:
        config = self.run.config
        learning_rate = config.learning_rate * schedules.factor(
            config.lr_schedule, batch.step, self.plan.total_steps, config.warmup_steps
        )
        self.tokens += batch.tokens
        requests = self.queue.step(batch.data, optimizer_parameters(config, learning_rate))
        return Submitted(batch, learning_rate, self.tokens, *requests)

    async def _collect(self, steps: asyncio.Queue[Submitted | None]) -> None:
        """Take the results of the steps in order and write their rows, until the loss diverges."""
        last = time.monotonic()
        while (item := await steps.get()) is not None:
            output = await item.forward_backward
            batch = item.batch
            measured = training_metrics(output, batch.data, batch.num_bytes, batch.special_tokens)
            self._guard(batch.step, measured["train/nll"])
            told = service_metrics(output)
            if not self.diverged:
                told |= await self._applied(item)
            if self.diverged:  # what is still in flight was computed from the same weights
                async with self.finished_steps:
                    self.finished_steps.notify_all()
                self.slots.release()
                return
            now = time.monotonic()
            seconds, last = now - last, now
            row = (
                told
                | measured
                | {
                    "lr": item.learning_rate,
                    "epoch": (batch.step + 1) / len(self.plan.data),
                    "progress": (batch.step + 1) / self.plan.total_steps,
                    "tokens/step": batch.tokens,
                    "tokens/total": item.tokens,
                    "tokens/per_second": batch.tokens / seconds if seconds else 0.0,
                    "time/step": seconds,
                }
            )
            self._write(batch.step, row)
            self.state.batches.merge(batch.step, {"digest": batch.digest})
            for hook in self.hooks:
                hook.on_progress(batch.step, row)
            async with self.finished_steps:
                self.applied = batch.step + 1
                self.finished_steps.notify_all()
            self.slots.release()

    async def _applied(self, item: Submitted) -> dict[str, float]:
        """Wait until the update of a step is applied; what the service measured of it."""
        import tinker

        try:
            told = service_metrics(await item.optim_step)
        except tinker.RequestFailedError as error:
            # The local service takes no step on such a gradient: it would spoil the weights.
            if "gradient is not finite" not in str(error):
                raise
            self._diverge(f"the gradient is not finite at step {item.batch.step}")
            return {}
        norm = told.get("train/grad_norm", 0.0)
        if not math.isfinite(norm):
            self._diverge(f"train/grad_norm is {norm} at step {item.batch.step}")
        return told

    def _write(self, step: int, values: dict[str, float]) -> None:
        timestamp = self.state.metrics.merge(step, values)
        for hook in self.hooks:
            hook.on_metrics(step, values, timestamp)

    def _guard(self, step: int, nll: float) -> None:
        """End a run whose loss is not finite or has risen far above where it began."""
        config = self.run.config
        if self.first_nll is None:
            self.first_nll = nll
        above = config.guard_steps > 0 and nll > self.first_nll + config.guard_rise
        self.steps_above = self.steps_above + 1 if above else 0
        if not math.isfinite(nll):
            self._diverge(f"train/nll is {nll} at step {step}")
        elif config.guard_steps and self.steps_above >= config.guard_steps:
            self._diverge(f"train/nll rose from {self.first_nll:.3f} to {nll:.3f} at step {step}")

    async def _reached(self, step: int) -> None:
        """Wait until `step` updates are applied, or the loss has diverged on the way there."""
        async with self.finished_steps:
            await self.finished_steps.wait_for(lambda: self.applied >= step or self.diverged)

    def _diverge(self, what: str) -> None:
        self.diverged = True
        self.run.stop(f"diverged: {what}", "FAILED")

    async def _evaluate(self, step: int, evaluators: list[Evaluator] | None = None) -> None:
        """Start the evaluations due after `step` updates, on a snapshot taken in the queue."""
        due = self.plan.due(self.run.config, step) if evaluators is None else evaluators
        measured = self.state.metrics.rows.get(step, {})
        # By the process that this one resumes.
        due = [
            e for e in due if not (isinstance(e, NLLEvaluator) and f"{e.prefix}/nll" in measured)
        ]
        if not due:
            return
        if self.no_snapshots:
            await self._not_measured(step, due, NoSnapshots(self.no_snapshots))
            return
        while len(pending := [t for t in self.evaluations.values() if not t.done()]) >= (
            PENDING_EVALUATIONS
        ):
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        work = self._measure(step, self.queue.snapshot(), due)
        self.evaluations[step] = self.group.create_task(work)

    async def _measure(self, step: int, snapshot: Request, evaluators: list[Evaluator]) -> None:
        """Measure the weights after `step` updates. What cannot be measured spoils nothing else."""
        try:
            sampling_client = await snapshot
        except Exception as error:
            cause = first_error(error)
            if status_of(cause) is not None and not self._is_over(cause, "snapshot"):
                self.no_snapshots = describe(cause)
                raise NoSnapshots(self.no_snapshots) from cause
            await self._not_measured(step, evaluators, error)
            return
        metrics: dict[str, float] = {}
        for evaluator in evaluators:
            try:
                measured = numbers(await evaluator(sampling_client))
            except Exception as error:
                await self._not_measured(step, [evaluator], error)
                continue
            try:
                claim(self.writers, evaluator, measured)
            except BadInput as error:
                if step == self.run.start_step:
                    raise
                await self._not_measured(step, [evaluator], error)
                continue
            metrics |= measured
            self.worked.add("evaluation")
            if table := getattr(evaluator, "table", None):
                name = name_of(evaluator)
                if step == 0:
                    self.tables[f"{name}@start"] = table
                self.tables[name] = table
                for hook in self.hooks:
                    hook.on_table(name, step, table)
        if not metrics or self.diverged:
            return
        self._write(step, metrics)
        for record in self.state.checkpoints.records:
            if record.step == step:
                self._attach(record)
        if step < self.plan.total_steps:
            self._stop_early()

    def _is_over(self, error: BaseException, kind: str) -> bool:
        """Whether an error means that the session is: a 404 may also say that the service has no
        such request, where it has never answered one."""
        return is_lost(error) and (status_of(error) != 404 or kind in self.worked)

    async def _not_measured(self, step: int, evaluators: list[Evaluator], error: Exception) -> None:
        """Say and record that an evaluation failed; training goes on.

        Raises the error of a lost service: the attempt ends, and the next one measures again.
        """
        cause = first_error(error)
        if self._is_over(cause, "evaluation") and is_from(cause, self.run.config.base_url):
            raise cause
        await self._reached(step)
        if self.diverged:  # weights that are not finite measure nothing
            return
        self.state.log.error("evaluation at step %d", step, exc_info=cause)
        for evaluator in evaluators:
            failed = FailedEvaluation(step, name_of(evaluator), describe(cause))
            self.failed_evaluations.append(failed)
            self.tell(
                f"the evaluation '{failed.name}' at step {step} failed: {failed.error}; "
                "training goes on"
            )
        self.state.record(failed_evaluations=[asdict(f) for f in self.failed_evaluations])

    def _stop_early(self) -> None:
        patience = self.run.config.early_stopping_patience
        values = [value for _, value in self.state.metrics.series("eval/nll")]
        if (
            patience
            and len(values) > patience
            and min(values[-patience:]) >= min(values[:-patience])
        ):
            self.run.stop(f"early stopping: eval/nll no lower for {patience} evaluations")

    async def _save(self, step: int, kind: str) -> None:
        """Queue a checkpoint of the weights after `step` updates, and see to its confirmation."""
        name = "final" if kind == "final" else f"{step:06d}"
        epoch, next_batch = divmod(step, len(self.plan.data))
        record = CheckpointRecord(name, step, epoch, next_batch, self.tokens, "", "", kind=kind)
        requests = await self.queue.save(name, self._ttl(kind))
        work = self._confirm(record, requests, self.last_save)
        self.last_save = self.group.create_task(work)

    def _ttl(self, kind: str) -> int | None:
        config = self.run.config
        return {"periodic": config.ttl_seconds, "rolling": config.rolling_ttl_seconds}.get(kind)

    async def _confirm(
        self,
        record: CheckpointRecord,
        requests: tuple[Request, Request],
        save_before: asyncio.Task[None] | None,
    ) -> None:
        """Record a checkpoint once it is saved and everything before it is known and finite.

        An evaluation of an earlier step could not be made again by a run that resumes here, so
        that the record waits for those too; and for the save before it, since the last record is
        the latest weights, and a rolling save replaces those before it.
        """
        if not await self._saved(record, requests):
            return
        await self._reached(record.step)
        earlier = [task for step, task in self.evaluations.items() if step < record.step]
        earlier += [save_before] if save_before else []
        if earlier:
            await asyncio.wait(earlier)
        if self.diverged:
            return
        record.timestamp = int(time.time() * 1000)
        await asyncio.to_thread(self.state.metrics.sync)
        self.state.checkpoints.append(record)
        self._attach(record)
        await self._drop_replaced(record)

    async def _saved(self, record: CheckpointRecord, requests: tuple[Request, Request]) -> bool:
        """Whether the service has saved both files of `record`.

        A run's last save is tried twice: the weights are still the same, and a session that has
        ended shows itself so. Raises the error of a lost service, and `NotSaved` for the final
        checkpoint and for a request that was refused before it had its place in the service's
        queue. A periodic one that fails costs a warning; earlier ones stay.
        """
        is_last = record.kind in ("final", "interrupted")
        for attempt in (1, 2):
            record.state_path = ""
            try:
                record.state_path = (await requests[0]).path
                record.sampler_path = (await requests[1]).path
                return True
            except Exception as error:
                if self._is_over(error, requests[bool(record.state_path)].kind):
                    raise
                problem = error
            if status_of(problem) is not None:  # its place in the queue stays open: nothing follows
                raise self._not_saved(record, problem)
            await self._reached(record.step)
            if self.diverged:
                return False
            if record.state_path:
                await self._delete(record.name, record.state_path)
            if not is_last:
                break
            if attempt == 1:
                requests = await self.queue.save(record.name, self._ttl(record.kind))
        self.state.log.error("checkpoint %s", record.name, exc_info=problem)
        if record.kind == "final":
            raise self._not_saved(record, problem)
        onward = "" if is_last else "; training goes on"
        self.tell(f"checkpoint {record.name} was not saved: {describe(problem)}{onward}")
        return False

    def _not_saved(self, record: CheckpointRecord, error: BaseException) -> NotSaved:
        there = self.state.checkpoints.records
        onward = f"goes on from {there[-1].name}" if there else "trains it again"
        return NotSaved(
            f"checkpoint {record.name} was not saved: {describe(error)}; once that is mended, "
            f"python -m sft.resume {self.run.directory} {onward}"
        )

    def _attach(self, record: CheckpointRecord) -> None:
        """Give `record` the evaluation made at its step, if there is one yet, and tell hooks."""
        row = self.state.metrics.rows.get(record.step, {})
        evaluation = {key: value for key, value in row.items() if key.startswith("eval/")}
        record.evaluation = evaluation or None
        for hook in self.hooks:
            hook.on_checkpoint(record)
        self.state.checkpoints.update()

    async def _drop_replaced(self, record: CheckpointRecord) -> None:
        """Delete what `record` replaces: earlier rolling saves, and periodic ones beyond `keep`."""
        records, keep = self.state.checkpoints.records, self.run.config.keep_checkpoints
        replaced = [
            old for old in records if old.kind in ("rolling", "interrupted") and old is not record
        ]
        periodic = [old for old in records if old.kind == "periodic" and old is not best(records)]
        replaced += periodic[:-keep] if keep else []
        for old in replaced:
            self.state.checkpoints.remove(old)
        for old in replaced:
            await self._delete(old.name, old.state_path)
            await self._delete(old.name, old.sampler_path)

    async def _delete(self, name: str, path: str) -> None:
        """Delete a file of a checkpoint; one that stays on the service costs space, not the run."""
        try:
            await self.connection.api.delete(path)
        except Exception as error:
            self.tell(f"checkpoint {name}: {path} stays on the service: {describe(error)}")

    def tell(self, text: str) -> None:
        """Write `text` to the run's log and to every hook."""
        text = mask_urls(text)
        self.state.log.info(text)
        for hook in self.hooks:
            hook.on_message(text)

    def finish(self, error: BaseException | None, seconds: float) -> RunResult:
        """Record how the run ended, on disk and with every hook."""
        stop = self.run.stopping
        if isinstance(error, asyncio.CancelledError):
            error = None  # said by `stop`
        first, last = self.state.metrics.edges()
        records = self.state.checkpoints.records
        result = RunResult(
            status=stop.status if stop else "FAILED" if error else "FINISHED",
            directory=self.run.directory,
            name=self.run.name,
            steps=self.applied,
            error=describe(error) if error else stop.reason if self.diverged and stop else None,
            reason=stop.reason if stop else None,
            diverged=self.diverged,
            first=first,
            last=last,
            best=best(records),
            checkpoints=list(records),
            tables=self.tables,
            failed_evaluations=list(self.failed_evaluations),
            tokens=int(last.get("tokens/total", 0)),
            seconds=seconds,
        )
        try:
            for evaluator in self.plan.evaluators:
                if digest := getattr(evaluator, "digest", None):
                    self.state.record(held_out_sequences=digest)
            self.state.finish(result)
        except Exception as failure:  # a full disk, say: the hooks may still reach others
            result.status, result.error = "FAILED", result.error or describe(failure)
            self.tell(f"run.json does not hold how the run ended: {describe(failure)}")
        self._begin()  # where the run failed before its first step
        for hook in self.hooks:
            hook.on_end(result)
        return result


def describe(error: BaseException) -> str:
    """An error in one line; those of this project are sentences of their own."""
    text = mask_urls(words_of(error))
    own = isinstance(error, BadInput | NotSaved | NeverWorked | NoSnapshots)
    return text if own else f"{type(error).__name__}: {text}"
