"""The trials of a study as a scheduler sees them: their learning curves, and how they stand."""

import math
from collections.abc import Sequence

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sft.sweeps.samplers.base import SURPLUS
from sft.sweeps.scheduling.curves import Curve, Point, State
from sft.sweeps.study import by_hand
from sft.sweeps.study.liveness import Liveness, is_paused

STEPS = "steps_in_all"
"""The steps of a whole trial, known once its data was read."""
EVERY = "steps_between"
"""Steps between two evaluations at which a trial may pause."""
DIVERGED = "diverged"


def curves(study: optuna.Study, liveness: Liveness, new: Curve) -> Sequence[Curve]:
    """The curve of each trial that has begun; one that has no step yet is as long as `new`.

    A metric that is to be more comes with its sign changed.
    """
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    trials = study.get_trials(deepcopy=False)
    return [
        _curve(trial, _state(trial, liveness), sign, new)
        for trial in trials
        if trial.state != TrialState.WAITING and SURPLUS not in trial.user_attrs
    ]


def _state(trial: FrozenTrial, liveness: Liveness) -> State:
    if trial.state == TrialState.COMPLETE:
        return State.COMPLETE
    if trial.user_attrs.get(DIVERGED):
        return State.DIVERGED
    if trial.state != TrialState.RUNNING:
        return State.FAILED
    # One that was claimed a moment ago is about to run.
    if not is_paused(trial) or liveness.is_alive(trial) or by_hand.is_trained(trial):
        return State.RUNNING
    return State.PAUSED


def _curve(trial: FrozenTrial, state: State, sign: float, new: Curve) -> Curve:
    """Tokens are counted by steps: those of one trial train on about as many each.

    One that is not complete counts with no fewer than its data promises: its budget must last.
    """
    steps = trial.user_attrs.get(STEPS, new.steps)
    every = trial.user_attrs.get(EVERY, new.every)
    done, tokens = trial.user_attrs.get("steps"), trial.user_attrs.get("tokens")
    whole = new.whole
    if steps and done and tokens:
        least = new.whole if steps == new.steps and done < steps else 0
        whole = max(least, round(tokens / done * steps))
    points = tuple(
        Point(round(step / steps * whole), sign * value)
        for step, value in sorted(trial.intermediate_values.items())
        if steps and math.isfinite(value)
    )
    return Curve(trial.number, trial.params, points, state, whole, steps, every)
