"""One attempt at a run: steps in a pipeline, everything else beside them.

The order in which requests are submitted to the training client is the order in which the
service computes them, so that a save or a snapshot enqueued right behind its step's `optim_step`
holds exactly that step's weights, while the next step is queued already.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sft import pauses, schedules
from sft.batches import Batch, prefetch
from sft.checkpoints import Cadence, CheckpointRecord, best
from sft.client import optimizer_parameters
from sft.custom import reproducible
from sft.evaluators import Evaluator, NLLEvaluator
from sft.hooks import Hook, Run, RunResult
from sft.metrics import training_metrics
from sft.secrets import mask_urls

if TYPE_CHECKING:
    from sft.client import Connection
    from sft.plan import Plan
    from sft.rundir import RunDirectory

PENDING_EVALUATIONS = 4
"""Evaluations that may run beside training; a further one waits, for each holds a snapshot."""


@dataclass
class Submitted:
    """A step on its way."""

    batch: Batch
    learning_rate: float
    tokens: int
    """Tokens trained on once it is applied."""
    forward_backward: Any
    optim_step: Any


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
    first_nll: float | None = None
    steps_above: int = 0

    async def train(self, connection: Connection) -> None:
        """Train from the last checkpoint that the service still has, to the end or to a stop."""
        config, plan = self.run.config, self.plan
        start = await self._start(connection)
        self.finished_steps = asyncio.Condition()
        self.evaluations: dict[int, asyncio.Task[None]] = {}
        self.last_save: asyncio.Task[None] | None = None
        self.in_flight: set[Any] = set()
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
            for future in list(self.in_flight):
                future.cancel()

    def _sent(self, request: Any) -> Any:
        """Remember a submitted request until it is answered, to be given up if this attempt is."""
        future = request.future()
        self.in_flight.add(future)
        future.add_done_callback(self.in_flight.discard)
        return request

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
            self.client = await connection.resume(record.state_path, metadata)
            start, self.tokens = record.step, record.tokens
            self.tell(f"resuming from checkpoint {record.name}, {start} steps done")
        else:
            self.client = await connection.create(self.run.config, metadata)
            start, self.tokens = 0, 0
        pauses.follow(self.client, self.tell)
        self.state.metrics.truncate(start)
        self.applied = self.run.start_step = start
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
        if not self.started:
            self.started = True
            for hook in self.hooks:
                hook.on_start(self.run)
            if not reproducible(self.run.settings):
                self.tell(
                    "this run cannot be reproduced: its dataset builder was made in a script or a "
                    "function; move it to a module of its own"
                )
        return start

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
                self._save(step, kind)
                saved_at = step
            await self._evaluate(step)
        stop = self.run.stopping
        if stop and not self.diverged and saved_at != step and step > 0:
            finished = stop.status == "FINISHED"
            self._save(step, "final" if finished else "interrupted")
            if finished:
                await self._evaluate(step, self.plan.evaluators + self.plan.infrequent)

    def _submit(self, batch: Batch) -> Submitted:
        config = self.run.config
        learning_rate = config.learning_rate * schedules.factor(
            config.lr_schedule, batch.step, self.plan.total_steps, config.warmup_steps
        )
        self.tokens += batch.tokens
        return Submitted(
            batch,
            learning_rate,
            self.tokens,
            self._sent(self.client.forward_backward(batch.data, "cross_entropy")),
            self._sent(self.client.optim_step(optimizer_parameters(config, learning_rate))),
        )

    async def _collect(self, steps: asyncio.Queue[Submitted | None]) -> None:
        """Take the results of the steps in order and write their rows, until the loss diverges."""
        last = time.monotonic()
        while (item := await steps.get()) is not None:
            output = await item.forward_backward
            batch = item.batch
            measured = training_metrics(output, batch.data, batch.num_bytes)
            self._guard(batch.step, measured["train/nll"])
            if not self.diverged:
                await self._applied(item)
            if self.diverged:  # what is still in flight was computed from the same weights
                async with self.finished_steps:
                    self.finished_steps.notify_all()
                self.slots.release()
                return
            now = time.monotonic()
            seconds, last = now - last, now
            row = measured | {
                "lr": item.learning_rate,
                "epoch": (batch.step + 1) / len(self.plan.data),
                "progress": (batch.step + 1) / self.plan.total_steps,
                "tokens/step": batch.tokens,
                "tokens/total": item.tokens,
                "tokens/per_second": batch.tokens / seconds if seconds else 0.0,
                "time/step": seconds,
            }
            self._write(batch.step, row)
            for hook in self.hooks:
                hook.on_progress(batch.step, row)
            async with self.finished_steps:
                self.applied = batch.step + 1
                self.finished_steps.notify_all()
            self.slots.release()

    async def _applied(self, item: Submitted) -> None:
        """Wait until the update of a step is applied."""
        import tinker

        try:
            await item.optim_step
        except tinker.RequestFailedError as error:
            # The local service takes no step on such a gradient: it would spoil the weights.
            if "gradient is not finite" not in str(error):
                raise
            self._diverge(f"the gradient is not finite at step {item.batch.step}")

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

    async def _beside(self, step: int, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` on the weights after `step` updates; it may fail where the loss diverged."""
        import tinker

        try:
            await work
        except tinker.RequestFailedError:
            await self._reached(step)
            if not self.diverged:
                raise

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
        if "eval/nll" in measured:  # by the process that this one resumes
            due = [e for e in due if not isinstance(e, NLLEvaluator)]
        if not due:
            return
        while len(pending := [t for t in self.evaluations.values() if not t.done()]) >= (
            PENDING_EVALUATIONS
        ):
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        snapshot = self._sent(self.client.save_weights_and_get_sampling_client())
        work = self._beside(step, self._measure(step, snapshot, due))
        self.evaluations[step] = self.group.create_task(work)

    async def _measure(self, step: int, snapshot: Any, evaluators: list[Evaluator]) -> None:
        sampling_client = await snapshot
        metrics: dict[str, float] = {}
        for evaluator in evaluators:
            metrics |= await evaluator(sampling_client)
            if table := getattr(evaluator, "table", None):
                name = getattr(evaluator, "name", type(evaluator).__name__)
                self.tables.setdefault(f"{name}@start", table)
                self.tables[name] = table
                for hook in self.hooks:
                    hook.on_table(name, step, table)
        if not metrics or self.diverged:
            return
        self._write(step, metrics)
        for record in self.state.checkpoints.records:
            if record.step == step:
                self._attach(record)
        self._stop_early()

    def _stop_early(self) -> None:
        patience = self.run.config.early_stopping_patience
        values = [value for _, value in self.state.metrics.series("eval/nll")]
        if (
            patience
            and len(values) > patience
            and min(values[-patience:]) >= min(values[:-patience])
        ):
            self.run.stop(f"early stopping: eval/nll no lower for {patience} evaluations")

    def _save(self, step: int, kind: str) -> None:
        """Enqueue a checkpoint of the weights after `step` updates, and its confirmation."""
        config = self.run.config
        name = "final" if kind == "final" else f"{step:06d}"
        ttl = {"periodic": config.ttl_seconds, "rolling": config.rolling_ttl_seconds}.get(kind)
        epoch, next_batch = divmod(step, len(self.plan.data))
        state = self._sent(self.client.save_state(name, ttl_seconds=ttl))
        sampler = self._sent(self.client.save_weights_for_sampler(name, ttl_seconds=ttl))
        record = CheckpointRecord(name, step, epoch, next_batch, self.tokens, "", "", kind=kind)
        work = self._beside(step, self._confirm(record, state, sampler, self.last_save))
        self.last_save = self.group.create_task(work)

    async def _confirm(
        self,
        record: CheckpointRecord,
        state: Any,
        sampler: Any,
        save_before: asyncio.Task[None] | None,
    ) -> None:
        """Record a checkpoint once it is saved and everything before it is known and finite.

        An evaluation of an earlier step could not be made again by a run that resumes here, so
        that the record waits for those too; and for the save before it, since the last record is
        the latest weights, and a rolling save replaces those before it.
        """
        record.state_path = (await state).path
        record.sampler_path = (await sampler).path
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
            await self.connection.api.delete(old.state_path)
            await self.connection.api.delete(old.sampler_path)

    def tell(self, text: str) -> None:
        """Write `text` to the run's log and to every hook."""
        text = mask_urls(text)
        self.state.log.info(text)
        for hook in self.hooks:
            hook.on_message(text)

    def finish(self, error: BaseException | None, seconds: float) -> RunResult:
        """Record how the run ended, on disk and with every hook."""
        stop = self.run.stopping
        first, last = self.state.metrics.edges()
        records = self.state.checkpoints.records
        result = RunResult(
            status=stop.status if stop else "FAILED" if error else "FINISHED",
            directory=self.run.directory,
            name=self.run.name,
            steps=self.applied,
            error=_describe(error) or (stop.reason if self.diverged and stop else None),
            reason=stop.reason if stop else None,
            diverged=self.diverged,
            first=first,
            last=last,
            best=best(records),
            checkpoints=list(records),
            tables=self.tables,
            tokens=int(last.get("tokens/total", 0)),
            seconds=seconds,
        )
        self.state.finish(result)
        if self.started:
            for hook in self.hooks:
                hook.on_end(result)
        return result


def _describe(error: BaseException | None) -> str | None:
    if error is None or isinstance(error, asyncio.CancelledError):
        return None
    return mask_urls(f"{type(error).__name__}: {error}")
