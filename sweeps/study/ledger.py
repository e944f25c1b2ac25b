"""The study as the trials of one process use it: all calls to the storage are in one thread.

A storage is a file that is synced or a database far away, and an Optuna study is not made for
several threads. The event loop, which feeds the training service, must not wait for it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeps.parameters import Distribution
from sweeps.study.liveness import Liveness

T = TypeVar("T")

ERROR = "error"  # user attributes of a trial
DIVERGED = "diverged"
SURPLUS = "surplus"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


class Ledger:
    """Asks for trials, takes their reports and their ends."""

    def __init__(
        self,
        study: optuna.Study,
        liveness: Liveness,
        space: Mapping[str, Distribution],
        n_trials: int,
    ):
        self.study = study
        self._liveness = liveness
        self._space = dict(space)
        self._n_trials = n_trials
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sweep-ledger")

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of `function(*arguments)`, called in the ledger's thread."""
        return await asyncio.wrap_future(self._thread.submit(function, *arguments))

    def close(self) -> None:
        """Wait for what is under way; trials without an end may be taken over by others."""
        self._thread.shutdown(wait=True)
        self._liveness.close()

    # What follows is called in the ledger's thread.

    def next(self) -> Trial | None:
        """A trial that lost its worker, else a new one, else (the study is full) None."""
        orphan = self._liveness.take_over(self.study)
        if orphan is not None:
            return self.opened(orphan)
        counted = self.study.get_trials(deepcopy=False, states=COUNTED)
        if len(counted) >= self._n_trials:
            return None
        trial = self._liveness.ask(lambda: self.study.ask(dict(self._space)))
        if trial.number >= self._n_trials:  # another process asked at the same time
            trial.set_user_attr(SURPLUS, True)
            self.finish(trial, TrialState.FAIL)
            return None
        return trial

    def opened(self, frozen: FrozenTrial) -> Trial:
        """The trial under its own number, with its parameters.

        They are drawn now if the process that asked for it was killed before that.
        """
        trial = Trial(self.study, frozen._trial_id)
        for name, distribution in self._space.items():
            suggest(trial, name, distribution)
        return trial

    def adopt(self, trial: Trial) -> None:
        """Make a trial this process's own, which another process of the sweep asked for."""
        self._liveness.adopt(trial)

    def report(self, trial: Trial, step: int, value: float, last: bool) -> bool:
        """Take an evaluation; returns whether the trial is to be pruned."""
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        if step in known:
            return False
        trial.report(value, step)
        # All trials begin alike, and a trial that is through has nothing to save.
        return 0 < step and not last and trial.should_prune()

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


def suggest(trial: Trial, name: str, distribution: Distribution) -> Any:
    """A parameter of a trial, through the public method for its distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    d = distribution
    if isinstance(d, FloatDistribution):
        return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)
    return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
