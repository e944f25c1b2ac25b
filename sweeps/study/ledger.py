"""The study as the trials of one process use it: all calls to the storage are in one thread.

A storage is a file that is synced or a database far away, and an Optuna study is not made for
several threads. The event loop, which feeds the training service, must not wait for it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sft.cost.meter import spent
from sft.sweeps.parameters import Distribution
from sft.sweeps.samplers.base import SURPLUS, place
from sft.sweeps.scheduling.base import Limits, Scheduler, Start, Thaw, fresh, purse
from sft.sweeps.scheduling.curves import Curve, State
from sft.sweeps.study import by_hand, standing
from sft.sweeps.study.liveness import PAUSED, WORKER, Liveness, is_paused
from sft.sweeps.study.storage import ASKED, OVER

T = TypeVar("T")

ERROR = "error"  # user attributes of a trial
USD = "usd"
SHORT = "short"
"""Whether a trial stands still because the sweep's budget is used up."""
SAVED = "saved."
"""Before the number of a repeat: its last checkpoint."""
PAUSES = "pauses"
"""The steps at which a trial stood still so far."""
UNTIL = "until"
"""The fraction of its schedule until which a trial trains; 1 to its end."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


class Job(Enum):
    """Where a trial is that was handed to another process."""

    WAITS = "no process has adopted it"
    WORKS = "a process is at it"
    OVER = "it has ended or pauses, or its process is gone"


@dataclass(frozen=True)
class Turn:
    """A trial that is to train now."""

    trial: Trial
    until: float = 1.0
    """The fraction of its schedule at which it pauses; 1: it trains to its end."""
    saved: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The last checkpoint of each repeat: its `path` and `step`. Another machine may have saved it,
    whose run directory is not here."""


class Ledger:
    """Asks for trials, takes their reports and their ends.

    Args:
        limits: what the sweep may use.
        scheduler: decides who trains next; None: new trials, each to its end.
    """

    def __init__(
        self,
        study: optuna.Study,
        liveness: Liveness,
        space: Mapping[str, Distribution],
        limits: Limits,
        scheduler: Scheduler | None = None,
    ):
        self.study = study
        self.is_over = self.waits = self.is_short = False
        """The scheduler has nothing left to do: at all, before a trial of another process pauses or
        ends, or with the tokens that are left."""
        self._scheduler = scheduler
        self._limits = limits
        self._liveness = liveness
        self._space = dict(space)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sweep-ledger")

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of `function(*arguments)`, called in the ledger's thread."""
        return await asyncio.wrap_future(self._thread.submit(function, *arguments))

    def close(self) -> None:
        """Wait for what is under way; trials without an end may be taken over by others."""
        self._thread.shutdown(wait=True)
        self._liveness.close()

    @property
    def pauses(self) -> bool:
        """Whether trials pause and go on."""
        return self._scheduler is not None

    @property
    def worker(self) -> str:
        """The name of this process in the study."""
        return self._liveness.token

    # What follows is called in the ledger's thread.

    def next(self) -> Turn | None:
        """Whose turn it is: a trial that lost its worker, else what the scheduler says, which may
        be a paused one; without a scheduler a new one. None if there is nothing to train now."""
        orphan = self._liveness.take_over(self.study)
        if orphan is not None:
            first = 1.0 if self._scheduler is None else self._scheduler.rungs[0]
            until, saved = orphan.user_attrs.get(UNTIL, first), checkpoints(orphan)
            return Turn(self.opened(orphan), until, saved)
        if self._scheduler is None:
            return self._ask(Start(1.0))
        if (turn := self._finished_by_hand()) is not None:
            return turn
        while True:
            curves = standing.curves(self.study, self._liveness, self._limits.new)
            wanted = self._wanted(self._scheduler, curves, self._limits)
            if wanted is None:
                endless = replace(self._limits, tokens=None)
                more = self._wanted(self._scheduler, curves, endless)
                self.waits = any(curve.state is State.RUNNING for curve in curves)
                self.is_short = not self.waits and more is not None
                self.is_over = not self.waits and more is None
                return None
            if isinstance(wanted, Start):
                return self._ask(wanted)
            trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            paused = next(trial for trial in trials if trial.number == wanted.number)
            if (turn := self._thawed(paused, wanted.rung)) is not None:
                return turn

    def _wanted(
        self, scheduler: Scheduler, curves: Sequence[Curve], limits: Limits
    ) -> Start | Thaw | None:
        """What to train: the user's own trials first, in their order; then what is worth most."""
        first = scheduler.rungs[0]
        if self._waiting() and len(curves) < limits.trials:
            if purse(curves, limits, scheduler.rungs).pays(fresh(curves, limits), first):
                return Start(first)
        return scheduler.next(curves, limits)

    def _waiting(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))

    def _finished_by_hand(self) -> Turn | None:
        """A paused trial that the user has trained to its end: the study has to hear of it."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_paused(trial) and by_hand.is_finished(trial):
                if (turn := self._thawed(trial, 1.0)) is not None:
                    return turn
        return None

    def _thawed(self, paused: FrozenTrial, until: float) -> Turn | None:
        """A paused trial's turn; None if another process was first."""
        if not self._liveness.claim(self.study, paused):
            return None
        trial = Trial(self.study, paused._trial_id)
        self.note(trial, {UNTIL: until, PAUSED: None})
        return Turn(trial, until, checkpoints(paused))

    def _ask(self, wanted: Start) -> Turn | None:
        """A new trial, the first one that waits if there is one; None if the study is full."""
        counted = self.study.get_trials(deepcopy=False, states=COUNTED)
        if sum(SURPLUS not in trial.user_attrs for trial in counted) >= self._limits.trials:
            return None

        def ask() -> Trial:
            if wanted.parameters and not self._waiting():
                return self._made(wanted)
            trial = self.study.ask(dict(self._space))
            trial.set_user_attr(UNTIL, wanted.rung)
            return trial

        trial = self._liveness.ask(ask)
        trials = self.study.get_trials(deepcopy=False)
        if place(trial.number, trials) >= self._limits.trials:  # another process asked as well
            trial.set_user_attr(SURPLUS, True)
            self.finish(trial, TrialState.FAIL)
            return None
        return Turn(trial, wanted.rung)

    def _made(self, wanted: Start) -> Trial:
        """A trial with the scheduler's values, all at once.

        Enqueued, they would be whoever's who asks next, and nobody's if this process were killed.
        """
        made = create_trial(
            state=TrialState.RUNNING,
            system_attrs={"fixed_params": dict(wanted.parameters)},
            user_attrs={UNTIL: wanted.rung},
        )
        return self._drawn(self.study._storage.create_new_trial(self.study._study_id, made))

    def opened(self, frozen: FrozenTrial) -> Trial:
        """The trial under its own number, with its parameters.

        They are drawn now if the process that asked for it was killed before that.
        """
        return self._drawn(frozen._trial_id)

    def _drawn(self, trial_id: int) -> Trial:
        trial = Trial(self.study, trial_id)
        for name, distribution in self._space.items():
            suggest(trial, name, distribution)
        return trial

    def adopt(self, trial: Trial) -> None:
        """Make a trial this process's own, which another process of the sweep asked for."""
        self._liveness.adopt(trial)

    def adopt_of(self, worker: str, trial: Trial) -> bool:
        """Make a trial this process's own that `worker` handed to it; False if it has ended, or is
        another process's by now, as when a cluster starts a lost job again."""
        fresh = self._fresh(trial)
        taken = fresh.user_attrs.get(WORKER) != worker and self._liveness.is_alive(fresh)
        if fresh.state.is_finished() or taken:
            return False
        self.adopt(trial)
        return True

    def jobs(self, trials: Sequence[Trial]) -> set[Job]:
        """How the jobs stand that this process handed `trials` to."""
        return {self._job(self._fresh(trial)) for trial in trials}

    def _job(self, trial: FrozenTrial) -> Job:
        if trial.state.is_finished() or is_paused(trial):
            return Job.OVER
        if trial.user_attrs.get(WORKER) == self.worker:
            return Job.WAITS
        return Job.WORKS if self._liveness.is_alive(trial) else Job.OVER

    def _fresh(self, trial: Trial) -> FrozenTrial:
        return self.study._storage.get_trial(trial._trial_id)

    def report(self, trial: Trial, step: int, value: float, last: bool) -> bool:
        """Take an evaluation; returns whether the trial is to be pruned."""
        known = self._fresh(trial).intermediate_values
        if step in known:
            return False
        trial.report(value, step)
        # All trials begin alike, and a trial that is through has nothing to save.
        return 0 < step and not last and trial.should_prune()

    def pause(self, trial: Trial, step: int, facts: Mapping[str, Any]) -> None:
        """A trial has stopped at a checkpoint after `step` updates; any worker may thaw it."""
        pauses = sorted({*trial.user_attrs.get(PAUSES, []), step})
        self.note(trial, {**facts, PAUSES: pauses, PAUSED: step})
        self.put_down(trial)

    def put_down(self, trial: Trial) -> None:
        """Leave a paused trial to whoever thaws it."""
        self._liveness.put_down(trial)

    def end_paused(self) -> list[FrozenTrial]:
        """End the trials that stay paused, with their last reports; those that were ended.

        The study is over then, even if it has fewer trials than it was to have.
        """
        ended = []
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_paused(frozen) and self._liveness.claim(self.study, frozen):
                self.finish(Trial(self.study, frozen._trial_id), TrialState.PRUNED)
                ended.append(frozen)
        for frozen in self._waiting():  # more than the study was to have
            self.study._storage.set_trial_state_values(frozen._trial_id, TrialState.RUNNING)
            trial = Trial(self.study, frozen._trial_id)
            trial.set_user_attr(SURPLUS, True)
            self.finish(trial, TrialState.FAIL)
        asked = self.study.user_attrs.get(ASKED, {})
        self.study.set_user_attr(ASKED, asked | {OVER: True})
        return ended

    def finish(
        self,
        trial: Trial,
        state: TrialState,
        values: Sequence[float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """End a trial; `facts` are kept with it."""
        self.note(trial, facts or {})
        self.study.tell(trial, values, state=state)
        self._liveness.release(trial._trial_id)

    def note(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """Keep `facts` with a trial, by name: values that JSON can hold."""
        for name, value in facts.items():
            trial.set_user_attr(name, value)


def spent_usd(study: optuna.Study, folder: Path) -> float:
    """What the trials of a study have cost so far, those that were cut short included: as their run
    directories in `folder` say, or the study where these are on another machine."""
    total = 0.0
    for trial in study.get_trials(deepcopy=False):
        runs = [folder / str(trial.number), *folder.glob(f"{trial.number}-*")]
        here = sum(filter(None, map(spent, runs)))
        total += max(here, trial.user_attrs.get(USD) or 0.0)
    return total


def checkpoints(trial: FrozenTrial) -> dict[str, Any]:
    """The last checkpoint of each repeat of a trial, as `saved_as` notes them."""
    attributes = trial.user_attrs.items()
    return {key[len(SAVED) :]: value for key, value in attributes if key.startswith(SAVED)}


def saved_as(repeat: int, path: str, step: int) -> dict[str, Any]:
    """The fact that a repeat has a checkpoint."""
    return {f"{SAVED}{repeat}": {"path": path, "step": step}}


def suggest(trial: Trial, name: str, distribution: Distribution) -> Any:
    """A parameter of a trial, through the public method for its distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    d = distribution
    if isinstance(d, FloatDistribution):
        return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
