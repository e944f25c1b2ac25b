"""One attempt at a run: steps in a pipeline, everything else beside them.

The order in which requests are queued (`sft/run/training_queue.py`) is the order in which the
service computes them: a save or a snapshot right behind its step's `optim_step` holds exactly that
step's weights, while the next step is queued already.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sft.config.saved import is_reproducible
from sft.hooks import FailedEvaluation, Run, RunResult
from sft.losses import LOSSES
from sft.record.checkpoints import Cadence, best
from sft.record.metrics import service_metrics, training_metrics
from sft.run import pauses
from sft.run.batches import Batch, prefetch
from sft.run.client import optimizer_parameters
from sft.run.evaluations import Evaluations, Measured
from sft.run.progress import Progress, describe
from sft.run.saves import Saves
from sft.run.training_queue import Request, TrainingQueue

if TYPE_CHECKING:
    from sft.record.rundir import RunDirectory
    from sft.run.client import Connection
    from sft.run.plan import Plan


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

    progress: Progress
    measured: Measured = field(default_factory=Measured)
    started: bool = False
    """The hooks have heard of the run."""
    tokens: int = 0
    """Trained on once all that is queued is applied."""
    first_nll: float | None = None
    steps_above: int = 0

    @property
    def run(self) -> Run:
        return self.progress.run

    @property
    def plan(self) -> Plan:
        return self.progress.plan

    @property
    def state(self) -> RunDirectory:
        return self.progress.state

    async def train(self, connection: Connection) -> None:
        """Train from the last checkpoint that the service still has, to the end or to a stop."""
        config, plan = self.run.config, self.plan
        start = await self._start(connection)
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
            async with prefetched as batches, asyncio.TaskGroup() as group:
                steps: asyncio.Queue[Submitted | None] = asyncio.Queue()
                collector = group.create_task(self._collect(steps))
                evaluations = Evaluations(self.progress, self.measured, self.queue, group)
                saves = Saves(self.progress, connection.api, self.queue, group, evaluations)
                await self._submit_all(start, batches, steps, evaluations, saves)
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
            self.progress.tell(f"checkpoint {record.name} is no longer on the service")
            record = None
        if record is not None:
            client = await connection.resume(record.state_path, metadata)
            start, self.tokens = record.step, record.tokens
            self.progress.tell(f"resuming from checkpoint {record.name}, {start} steps done")
        else:
            client = await connection.create(self.run.config, metadata)
            start, self.tokens = 0, 0
        pauses.follow(client, self.progress.tell)
        self.queue = TrainingQueue(client, LOSSES[self.run.config.loss_fn], self.progress.worked)
        self.state.metrics.truncate(start)
        self.state.batches.truncate(start)
        self.progress.applied = self.run.start_step = start
        before = self.measured.failed or [
            FailedEvaluation(**failed) for failed in self.state.facts.get("failed_evaluations", [])
        ]
        self.measured.failed = [failed for failed in before if failed.step < start]
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
        for hook in self.progress.hooks:
            hook.on_start(self.run)
        for note in self.plan.notes:
            self.progress.tell(note)
        if not is_reproducible(self.run.settings):
            self.progress.tell(
                "this run cannot be reproduced: a builder of its data or its evaluators was made "
                "in a script or a function, or holds more than plain values; make it a dataclass "
                "of numbers and texts in a module of its own"
            )

    async def _submit_all(
        self, start: int, batches: Any, steps: Any, evaluations: Evaluations, saves: Saves
    ) -> None:
        """Submit every step from `start` on, with the saves and snapshots due behind each."""
        plan = self.plan
        step = start
        recorded = {record.step for record in self.state.checkpoints.records}
        await evaluations.start(start)  # also after the last step: that evaluation may be missing
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
                await saves.start(step, kind, self.tokens)
                saved_at = step
            await evaluations.start(step)
        stop = self.run.stopping
        if stop and not self.progress.diverged and saved_at != step and step > 0:
            finished = stop.status == "FINISHED"
            kind = "final" if finished else "interrupted"
            await saves.start(step, kind, self.tokens)
            if finished:
                await evaluations.start(step, self.plan.evaluators + self.plan.infrequent)

    def _submit(self, batch: Batch) -> Submitted:
        config = self.run.config
        factor = config.schedule.factor(batch.step, self.plan.total_steps)
        learning_rate = config.learning_rate * factor
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
            if not self.progress.diverged:
                told |= await self._applied(item)
            if self.progress.diverged:  # what is in flight was computed from the same weights
                await self.progress.advance(self.progress.applied)
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
            self.progress.write(batch.step, row)
            self.state.batches.merge(batch.step, {"digest": batch.digest})
            for hook in self.progress.hooks:
                hook.on_progress(batch.step, row)
            await self.progress.advance(batch.step + 1)
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
            self.progress.diverge(f"the gradient is not finite at step {item.batch.step}")
            return {}
        norm = told.get("train/grad_norm", 0.0)
        if not math.isfinite(norm):
            self.progress.diverge(f"train/grad_norm is {norm} at step {item.batch.step}")
        return told

    def _guard(self, step: int, nll: float) -> None:
        """End a run whose loss is not finite or has risen far above where it began."""
        config = self.run.config
        if self.first_nll is None:
            self.first_nll = nll
        above = config.guard_steps > 0 and nll > self.first_nll + config.guard_rise
        self.steps_above = self.steps_above + 1 if above else 0
        if not math.isfinite(nll):
            self.progress.diverge(f"train/nll is {nll} at step {step}")
        elif config.guard_steps and self.steps_above >= config.guard_steps:
            self.progress.diverge(
                f"train/nll rose from {self.first_nll:.3f} to {nll:.3f} at step {step}"
            )

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
            steps=self.progress.applied,
            error=describe(error)
            if error
            else stop.reason
            if self.progress.diverged and stop
            else None,
            reason=stop.reason if stop else None,
            diverged=self.progress.diverged,
            first=first,
            last=last,
            best=best(records),
            checkpoints=list(records),
            tables=self.measured.tables,
            failed_evaluations=list(self.measured.failed),
            tokens=int(last.get("tokens/total", 0)),
            seconds=seconds,
        )
        try:
            for evaluator in self.plan.evaluators:
                if digest := getattr(evaluator, "digest", None):
                    self.state.record(held_out_sequences=digest)
            self.state.finish(
                result.status,
                result.error,
                seconds,
                reason=result.reason,
                steps=result.steps,
                tokens=result.tokens,
                last=last,
                best=asdict(result.best) if result.best else None,
            )
        except Exception as failure:  # a full disk, say: the hooks may still reach others
            result.status, result.error = "FAILED", result.error or describe(failure)
            self.progress.tell(f"run.json does not hold how the run ended: {describe(failure)}")
        self._begin()  # where the run failed before its first step
        for hook in self.progress.hooks:
            hook.on_end(result)
        return result
