"""The sweep itself: trials as coroutines of one process, each replaced as soon as it ends."""

import asyncio
import shlex
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from sft.command.signals import AGAIN, Signals
from sft.cost.prices import dollars
from sft.errors import BadInput
from sft.record.durations import duration
from sft.record.rundir import end
from sft.secrets import mask_urls
from sft.sweeps.composing import Composer
from sft.sweeps.options import Settled
from sft.sweeps.parent import Parent
from sft.sweeps.study.endings import Ending
from sft.sweeps.study.ledger import Turn
from sft.sweeps.study.liveness import PAUSED, is_paused
from sft.sweeps.trial import Shared, TrialRun
from sft.tracking import sync

INTERRUPTED = "interrupted"
DONE = "every trial is done"
SETTLED = "no further trial is likely enough to be better"
"""Why a sweep ended that needs no more."""
LOOK_AGAIN = 2.0
"""Seconds after which a process without a trial asks again what there is to do."""


@dataclass
class Budget:
    """Tokens that the sweep may train on; those of earlier processes count."""

    limit: int | None
    by_trial: dict[int, int]
    """Tokens so far, by the trials' numbers."""
    per_trial: int | None  # what a whole trial takes, if known

    @property
    def spent(self) -> int:
        return sum(self.by_trial.values())

    def spend(self, number: int, tokens: int) -> bool:
        """Take the tokens of a trial so far; False once the budget is used up."""
        self.by_trial[number] = tokens
        return self.limit is None or self.spent < self.limit

    def admits_one_more(self, promised: int) -> bool:
        """Whether one more whole trial fits; those that run will still take `promised` tokens."""
        return self.limit is None or self.spent + promised + (self.per_trial or 0) <= self.limit


class Sweep:
    """Runs trials until the study is full, a limit is reached or the user interrupts.

    Args:
        composer: makes the settings of a trial, on the event loop's thread.
    """

    def __init__(
        self,
        options: Settled,
        shared: Shared,
        composer: Composer,
        budget: Budget,
        signals: Signals,
        parent: Parent | None = None,
    ):
        self.options = options
        self.shared = shared
        self.budget = budget
        self.interrupted = False
        self.failures = 0
        self.why_ended = DONE
        self.short_of: str | None = None
        """The key of the limit without which the sweep would go on."""
        self._composer = composer
        self._signals = signals
        self._parent = parent
        self._deadline = time.monotonic() + options.timeout if options.timeout else None
        self._running: dict[asyncio.Task[Ending], TrialRun] = {}

    async def run(self) -> int:
        """Run the sweep; returns the exit code."""
        with self.signals():
            while True:
                await self._fill()
                if not self._running:
                    if not self.shared.ledger.waits or not self.may_start():
                        break
                    await asyncio.sleep(LOOK_AGAIN)
                    continue
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await self._ended(self._running.pop(task), task)
        await self.conclude()
        return self.exit_code()

    def exit_code(self) -> int:
        """0: the study reached its end; 1: given up, or nothing came out; above 128: a signal."""
        if self.interrupted:
            return self._signals.exit_code
        if self._gave_up() or not self._any_complete():
            return 1
        return 0

    async def _fill(self) -> None:
        while len(self._running) < self.options.n_jobs and self.may_start():
            turn = await self.shared.ledger.call(self.shared.ledger.next)
            if turn is None or self.interrupted:
                return
            await self._start(turn)

    async def conclude(self) -> None:
        """Say why the sweep ended; if its scheduler is through, end the trials that it did not find
        worth their tokens.

        What an interruption or a limit leaves is left as it is, for a process that goes on.
        """
        ledger = self.shared.ledger
        if self.interrupted:
            self.why_ended = INTERRUPTED
        elif ledger.is_short:
            self._out_of_tokens("what comes next would pass it")
        if self.interrupted or not ledger.is_over:
            return
        if len(ledger.study.get_trials(deepcopy=False)) < self.options.n_trials:
            self.why_ended = SETTLED
        for trial in await ledger.call(ledger.end_paused):
            words = f"paused at step {trial.user_attrs[PAUSED]} and not worth more tokens"
            for directory in map(Path, trial.user_attrs.get("directories", [])):
                if directory.is_dir():  # else it is on another machine
                    await asyncio.to_thread(end, directory, "PRUNED", words, time.time())
                    await asyncio.to_thread(sync, directory)
            self.shared.display.ended(trial.number, Ending(TrialState.PRUNED, error=words))

    def may_start(self) -> bool:
        """Whether there may be one more trial; if not, `why_ended` says why."""
        if self.interrupted:
            self.why_ended = INTERRUPTED
        elif self._gave_up():
            self.why_ended = (
                f"hydra.sweeper.max_failures={self.options.max_failures}: as many trials failed"
            )
        elif self._deadline is not None and time.monotonic() > self._deadline:
            self.why_ended = f"hydra.sweeper.timeout={self.options.timeout:g} s is over"
        elif (money := self.shared.money).refused:
            self.why_ended = (
                f"{money.key}={money.limit:g}: what comes next would pass it, "
                f"{dollars(money.spent)} spent"
            )
            self.short_of = money.key
        elif not self._has_tokens():
            pauses = self.options.scheduler != "none"
            self._out_of_tokens("used up" if pauses else "no whole trial fits any more")
        else:
            return True
        return False

    def _out_of_tokens(self, why: str) -> None:
        self.short_of = "hydra.sweeper.max_tokens"
        spent = f"{self.budget.spent:,} tokens spent"
        self.why_ended = f"{self.short_of}={self.options.max_tokens}: {why}, {spent}"

    def _has_tokens(self) -> bool:
        """Whether tokens are left for one more trial: a whole one, unless trials pause."""
        if self.options.scheduler != "none":
            return self.budget.limit is None or self.budget.spent < self.budget.limit
        return self.budget.admits_one_more(self._promised())

    def _gave_up(self) -> bool:
        limit = self.options.max_failures
        return limit is not None and self.failures >= limit

    def _promised(self) -> int:
        per_trial = self.budget.per_trial or 0
        return sum(max(0, per_trial - run.tokens) for run in self._running.values())

    async def _start(self, turn: Turn) -> None:
        trial = turn.trial
        try:
            # Hydra takes a tenth of a second, in which other trials submit their steps.
            settings = await asyncio.to_thread(self._composer.settings, trial.params)
        except BadInput as error:
            ending = Ending(TrialState.FAIL, error=str(error))
            ledger = self.shared.ledger
            await ledger.call(ledger.finish, trial, TrialState.FAIL, None, {"error": str(error)})
            self.shared.display.ended(trial.number, ending)
            self.count(ending)
            return
        run = TrialRun(self.shared, turn, settings)
        self._running[asyncio.create_task(run.execute())] = run

    async def _ended(self, run: TrialRun, task: asyncio.Task[Ending]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:  # the storage itself: nothing can be told any more
            raise error
        self.count(task.result())
        if self._parent is not None and task.result().values:
            await self._tell(self._parent)

    def count(self, ending: Ending) -> None:
        """Count the failed ones."""
        if ending.state == TrialState.FAIL:
            self.failures += 1

    def _any_complete(self) -> bool:
        study = self.shared.ledger.study
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return any(t.state in done for t in study.get_trials(deepcopy=False))

    async def _tell(self, parent: Parent) -> None:
        """The sweep's own MLflow run hears of the best trial so far."""
        study = self.shared.ledger.study
        if len(study.directions) > 1:
            return
        best = await self.shared.ledger.call(lambda: study.best_trial)
        tags = {f"best.{name}": str(value) for name, value in best.params.items()}
        tags |= {"best.trial": str(best.number)}
        finished = self.shared.display.finished
        metric = self.shared.common.metrics[0]
        values = {f"best/{metric}": best.values[0]}
        if money := self.shared.money.spent:
            values["cost/usd"] = money
        parent.update(values, tags, finished)

    # Interruption.

    def signals(self) -> AbstractContextManager[None]:
        """While inside, the first signal stops the trials and one that comes again ends them."""
        return self._signals.told(self._interrupt, self._end)

    def _interrupt(self, name: str) -> None:
        self.interrupted = True
        self.shared.display.message(
            f"{name}: no new trials; those that run save a checkpoint and stop; {AGAIN}"
        )
        for run in self._running.values():
            run.stop(f"interrupted by {name}", "KILLED")

    def _end(self, name: str) -> None:
        for task in self._running:
            task.cancel(f"interrupted by {name}")


def closing_words(sweep: Sweep, seconds: float, command: str) -> str:
    """How the sweep ended and how to go on with it."""
    study = sweep.shared.ledger.study
    counts: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        # What still runs is another process's, or is left for the next one.
        state = "unfinished" if trial.state == TrialState.RUNNING else trial.state.name.lower()
        state = "paused" if is_paused(trial) else state
        counts[state] = counts.get(state, 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    lines = [f"study {study.study_name}: {sweep.why_ended} after {duration(seconds)} ({states})"]
    if sweep.why_ended not in (DONE, SETTLED):
        lines.append(f"to go on: {command}")
    storage = sweep.options.storage
    where = f" --storage {shlex.quote(mask_urls(storage))}" if storage else ""
    lines.append(f"report:   python -m sft.sweeps.report {study.study_name}{where}")
    return "\n".join(lines)
