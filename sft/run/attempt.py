"""The steps of one attempt: in a pipeline, everything else beside them.

The order in which requests are queued (`sft/run/training_queue.py`) is the order in which the
service computes them: a save or a snapshot right behind its step's `optim_step` holds exactly that
step's weights, while the next step is queued already.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sft.config.schema import AUTO
from sft.cost.prices import dollars
from sft.record.checkpoints import Cadence
from sft.record.metrics import service_metrics, training_metrics
from sft.run.batches import Batch, prefetch
from sft.run.client import optimizer_parameters
from sft.run.evaluations import Evaluations, Measured
from sft.run.failures import is_refused, words_of
from sft.run.guard import Guard
from sft.run.progress import Progress
from sft.run.saves import Saves
from sft.run.training_queue import Request, TrainingQueue

if TYPE_CHECKING:
    from sft.cost.budget import Budget
    from sft.run.client import Service


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
class Attempt:
    """The steps from `start` on, in one session of the service."""

    progress: Progress
    queue: TrainingQueue
    guard: Guard
    start: int
    tokens: int
    """Trained on once all that is queued is applied."""
    slots: asyncio.Semaphore = field(init=False)
    """Steps that may be on their way."""
    steps: asyncio.Queue[Submitted | None] = field(default_factory=asyncio.Queue)
    cadence: Cadence = field(init=False)
    without_data: Exception | None = None
    """Why there is no further batch, if there should be one."""

    def __post_init__(self) -> None:
        config = self.progress.run.config
        self.slots = asyncio.Semaphore(config.submit_ahead + 1)
        self.cadence = Cadence(
            config.save_every,
            config.save_every_tokens,
            config.save_every_seconds,
            config.rolling_save_every,
        )
        self.cadence.resume(self.tokens)

    async def train(self, api: Service, measured: Measured) -> None:
        """Train to the end or to a stop."""
        plan, config = self.progress.plan, self.progress.run.config
        prefetched = prefetch(
            plan.data,
            start_step=self.start,
            total_steps=plan.total_steps,
            seed=config.seed,
            ahead=config.submit_ahead + 2,
        )
        try:
            async with prefetched as batches, asyncio.TaskGroup() as group:
                collector = group.create_task(self._collect())
                evaluations = Evaluations(self.progress, measured, self.queue, group)
                saves = Saves(self.progress, api, self.queue, group, evaluations)
                await self._submit_all(batches, evaluations, saves)
                await self.steps.put(None)
                await collector
        finally:
            self.queue.give_up()
        if self.without_data is not None:  # what was on its way has arrived and is recorded
            raise self.without_data

    async def _submit_all(
        self,
        batches: asyncio.Queue[Batch | Exception],
        evaluations: Evaluations,
        saves: Saves,
    ) -> None:
        """Submit every step, with the saves and snapshots due behind each."""
        plan, run, meter = self.progress.plan, self.progress.run, self.progress.meter
        meter.break_promises()
        step = self.start
        recorded = {record.step for record in self.progress.state.checkpoints.records}
        # Also after the last step: that evaluation may be missing.
        if self._holds(meter.promise(step, evaluations.price(step), evaluations.most(step))):
            await evaluations.start(step)
        saved_at = step if step in recorded else -1
        while step < plan.total_steps:
            if run.pause_at is not None and step >= run.pause_at:
                run.stop(f"paused at step {step}", "PAUSED")
            await self.slots.acquire()
            if run.stopping:
                break
            batch = await batches.get()
            if isinstance(batch, Exception):
                self.without_data = batch
                break
            due, most = evaluations.price(step + 1), evaluations.most(step + 1)
            if not self._holds(meter.step(step + 1, batch.tokens, due, most)):
                break
            await self.steps.put(self._submit(batch))
            step += 1
            kind = "final" if step == plan.total_steps else self.cadence.due(step, self.tokens)
            if kind:
                await saves.start(step, kind, self.tokens)
                saved_at = step
            await evaluations.start(step)
        stop = run.stopping
        if stop and not self.progress.diverged and saved_at != step and step > 0:
            finished = stop.status == "FINISHED"
            kind = "final" if finished else "interrupted"
            await saves.start(step, kind, self.tokens)
            every = plan.evaluators + plan.infrequent
            due, most = evaluations.price(step, every), evaluations.most(step, every)
            if finished and self._holds(meter.promise(step, due, most)):
                await evaluations.start(step, every)

    def _holds(self, short: Budget | None) -> bool:
        """Whether what comes next is paid for; if a budget is `short` of it, the run ends here."""
        if short is None:
            return True
        self.progress.run.stop(
            f"{short.key}={short.limit:g}: what comes next would pass it ({dollars(short.spent)} "
            f"spent, {dollars(short.held)} held for what is under way)",
            "KILLED",
        )
        return False

    def _submit(self, batch: Batch) -> Submitted:
        config = self.progress.run.config
        factor = config.schedule.factor(batch.step, self.progress.plan.total_steps)
        assert config.learning_rate != AUTO  # a number by now: sft.run.plan
        learning_rate = config.learning_rate * factor
        self.tokens += batch.tokens
        requests = self.queue.step(batch.data, optimizer_parameters(config, learning_rate))
        return Submitted(batch, learning_rate, self.tokens, *requests)

    async def _collect(self) -> None:
        """Take the results of the steps in order and write their rows, until the loss diverges."""
        last = time.monotonic()
        while (item := await self.steps.get()) is not None:
            output = await item.forward_backward
            batch = item.batch
            measured = training_metrics(output, batch.data, batch.num_bytes, batch.special_tokens)
            if complaint := self.guard.complaint(batch.step, measured["train/nll"]):
                self.progress.diverge(complaint)
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
                    "epoch": (batch.step + 1) / len(self.progress.plan.data),
                    "progress": (batch.step + 1) / self.progress.plan.total_steps,
                    "tokens/step": batch.tokens,
                    "tokens/total": item.tokens,
                    "tokens/per_second": batch.tokens / seconds if seconds else 0.0,
                    "time/step": seconds,
                }
            )
            if (usd := self.progress.meter.usd) is not None:
                row["cost/usd"] = usd
            self.progress.write(batch.step, row)
            self.progress.state.batches.merge(batch.step, {"digest": batch.digest})
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
            # An update like those before it: what is wrong is the gradient. The local service
            # takes none that is not finite, which would spoil the weights.
            if not is_refused(error) or item.batch.step == 0:
                raise
            self.progress.diverge(f"no update at step {item.batch.step}: {words_of(error)}")
            return {}
        norm = told.get("train/grad_norm", 0.0)
        if not math.isfinite(norm):
            self.progress.diverge(f"train/grad_norm is {norm} at step {item.batch.step}")
        return told
