"""A run in this process: attempt after attempt, each in a session of its own, and its end."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sft.config.saved import is_reproducible
from sft.evaluators import NLLEvaluator
from sft.hooks import FailedEvaluation, Run, RunResult
from sft.losses import LOSSES
from sft.record.checkpoints import best
from sft.record.metrics import evaluated, is_less_better
from sft.run import pauses
from sft.run.attempt import Attempt
from sft.run.evaluations import Measured
from sft.run.guard import Guard
from sft.run.progress import Progress, describe
from sft.run.training_queue import TrainingQueue

if TYPE_CHECKING:
    from sft.record.rundir import RunDirectory
    from sft.run.client import Connection
    from sft.run.plan import Plan


@dataclass
class Loop:
    """A run in this process; `train` makes one attempt at it."""

    progress: Progress
    measured: Measured = field(default_factory=Measured)
    started: bool = False
    """The hooks have heard of the run."""
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        config = self.run.config
        self.guard = Guard(config.guard_rise, config.guard_steps)

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
        attempt = await self._attempt(connection)
        self._begin()
        await attempt.train(connection.api, self.measured)

    async def _attempt(self, connection: Connection) -> Attempt:
        """Make the training client, and bring what is recorded back to where it starts."""
        metadata = {"sft_run": self.run.name}
        record = None
        for record in reversed(self.state.checkpoints.records):
            if await connection.api.weights_info(record.state_path) is not None:
                break
            self.progress.tell(f"checkpoint {record.name} is no longer on the service")
            record = None
        if record is not None:
            client = await connection.resume(record.state_path, metadata)
            start, tokens = record.step, record.tokens
            self.progress.tell(f"resuming from checkpoint {record.name}, {start} steps done")
        else:
            client = await connection.create(self.run.config, metadata)
            start, tokens = self.run.config.load_checkpoint_step or 0, 0
        pauses.follow(client, self.progress.tell)
        sessions = self.state.facts.get("sessions", [])
        self.state.record(sessions=[*sessions, connection.service.holder.get_session_id()])
        self.state.metrics.truncate(start)
        self.state.batches.truncate(start)
        self.state.examples.truncate(start)
        self.progress.applied = self.run.start_step = start
        before = self.measured.failed or [
            FailedEvaluation(**failed) for failed in self.state.facts.get("failed_evaluations", [])
        ]
        self.measured.failed = [failed for failed in before if failed.step < start]
        series = self.state.metrics.series("train/nll")
        self.guard.resume(series[0][1] if series else None)
        queue = TrainingQueue(client, LOSSES[self.run.config.loss_fn], self.progress.worked)
        return Attempt(self.progress, queue, self.guard, start, tokens)

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

    def finish(self, error: BaseException | None, seconds: float) -> RunResult:
        """Record how the run ended, on disk and with every hook."""
        stop = self.run.stopping
        meter = self.progress.meter
        meter.break_promises()
        self._enter_cost()
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
            bests=self._bests(),
            best=best(records, self.run.config.metric, self.run.config.direction),
            checkpoints=list(records),
            tables=self.measured.tables,
            failed_evaluations=list(self.measured.failed),
            tokens=int(last.get("tokens/total", 0)),
            seconds=seconds,
            usd=meter.usd,
            unpriced=meter.unpriced,
        )
        try:
            meter.write()
            read = self._sequences()
            if main := read.pop("nll", None):
                self.state.record(held_out_sequences=main)
            if read:
                self.state.record(eval_set_sequences=read)
            self.state.finish(
                result.status,
                result.error,
                seconds,
                reason=result.reason,
                steps=result.steps,
                tokens=result.tokens,
                usage=meter.usage.to_json(),
                usd=result.usd,
                unpriced=result.unpriced,
                last=last,
                best=asdict(result.best) if result.best else None,
            )
        except Exception as failure:  # a full disk, say: the hooks may still reach others
            result.status, result.error = "FAILED", result.error or describe(failure)
            self.progress.tell(f"run.json does not hold how the run ended: {describe(failure)}")
        self._begin()  # if the run failed before its first step
        self._end_hooks(result, error)
        return result

    def _end_hooks(self, result: RunResult, error: BaseException | None) -> None:
        """Tell all hooks, whatever one of them raises: the first such exception comes behind them,
        and the run's own `error` with it."""
        raised: list[Exception] = []
        for hook in self.progress.hooks:
            try:
                hook.on_end(result)
            except Exception as failure:
                raised.append(failure)
        if raised:
            raise raised[0] from error

    def _enter_cost(self) -> None:
        """The last row holds what the whole run has cost: evaluations come after their step."""
        usd, rows = self.progress.meter.usd, self.state.metrics.rows
        if usd is not None and rows and rows[step := next(reversed(rows))].get("cost/usd") != usd:
            self.progress.write(step, {"cost/usd": usd})

    def _bests(self) -> dict[str, tuple[int, float]]:
        """Step and value of the best evaluation, by metric."""
        config, found = self.run.config, {}
        rows = self.state.metrics.rows
        for metric in evaluated({name for row in rows.values() for name in row}):
            less = is_less_better(metric, config.metric, config.direction)
            series = [(s, v) for s, v in self.state.metrics.series(metric) if math.isfinite(v)]
            if series:
                found[metric] = (min if less else max)(series, key=lambda pair: pair[1])
        return found

    def _sequences(self) -> dict[str, str]:
        """Digests of what was measured on the main held-out set (`nll`) and on those by name."""
        return {
            evaluator.name: evaluator.digest
            for evaluator in self.plan.evaluators
            if isinstance(evaluator, NLLEvaluator) and evaluator.digest
        }
