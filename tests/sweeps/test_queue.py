"""Whose values a new trial has: the user's queue first, then the scheduler's; none is left."""

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from sft.sweeps.findings.results import Results
from sft.sweeps.samplers import tpe
from sft.sweeps.scheduling.base import Limits, Start
from sft.sweeps.study import liveness, storage
from sft.sweeps.study.ledger import UNTIL, Ledger

SPACE = {
    "lr": CategoricalDistribution((1e-4, 3e-4, 1e-3, 3e-3)),
    "lora.rank": CategoricalDistribution((4, 16)),
}
ASKS = [{"lr": 1e-3, "lora.rank": 4}, {"lr": 3e-3}, {"lr": 3e-4, "lora.rank": 16}]


class Asks:
    """A scheduler that asks for certain values, one after the other."""

    rungs = (0.25, 1.0)

    def next(self, curves, limits):
        left = ASKS[len(curves) :]
        return Start(0.25, left[0]) if left and len(curves) < limits.trials else None


@pytest.fixture(params=[None, "sqlite:///study.db"])
def place(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.fixture
def opened(place, tmp_path):
    """A study, and a function that gives a ledger of it, as a further process has one."""
    kept = storage.open_storage(place, tmp_path / "s")
    study = storage.open_study("s", kept, ["minimize"], sampler=tpe.make(SPACE, 0))
    ledgers = []

    def ledger(n_trials=8):
        alive = liveness.make(study, tmp_path / "s", place is None)
        ledgers.append(Ledger(study, alive, SPACE, Limits(n_trials), Asks()))
        return ledgers[-1]

    yield study, ledger
    for made in ledgers:
        made.close()


def waiting(study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def test_a_new_trial_has_the_values_that_the_scheduler_asked_for(opened):
    study, ledger = opened
    one = ledger()
    for wanted in ASKS:
        turn = one.next()
        assert turn.until == turn.trial.user_attrs[UNTIL] == 0.25
        assert turn.trial.params.keys() == SPACE.keys()
        assert wanted.items() <= turn.trial.params.items()
    assert waiting(study) == 0


def test_the_users_queue_goes_first_in_its_order_and_is_not_mixed_with_the_schedulers(opened):
    study, ledger = opened
    queue = [{"lr": 1e-4, "lora.rank": 16}, {"lr": 3e-4, "lora.rank": 4}]
    for values in queue:
        study.enqueue_trial(values)
    one = ledger()
    turns = [one.next() for _ in ASKS]
    assert [turn.trial.params for turn in turns] == [*queue, ASKS[2]]
    assert waiting(study) == 0


def test_the_users_queue_is_trained_even_if_the_scheduler_has_nothing_left_to_start(opened):
    study, ledger = opened
    one = ledger()
    for _ in ASKS:
        one.finish(one.next().trial, TrialState.COMPLETE, [1.0])
    study.enqueue_trial({"lr": 1e-4, "lora.rank": 16})
    turn = one.next()
    assert turn.trial.params == {"lr": 1e-4, "lora.rank": 16} and turn.until == 0.25
    one.finish(turn.trial, TrialState.COMPLETE, [1.0])
    assert one.next() is None and one.is_over


def test_a_process_killed_while_it_makes_a_trial_leaves_the_schedulers_values(opened, monkeypatch):
    study, ledger = opened
    one = ledger()
    with monkeypatch.context() as m:
        m.setattr(Ledger, "_drawn", lambda self, trial_id: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.next()
    one.close()
    assert waiting(study) == 0
    [left] = study.get_trials(deepcopy=False)
    trial = ledger().opened(left)
    assert trial.params == ASKS[0] and trial.user_attrs[UNTIL] == 0.25


def test_what_waits_beyond_the_trials_of_a_sweep_does_not_keep_it_under_way(opened):
    study, ledger = opened
    study.set_user_attr(storage.ASKED, {"trials": 8, "words": [], "grid": False})
    one = ledger(n_trials=1)
    one.finish(one.next().trial, TrialState.COMPLETE, [1.0])
    study.enqueue_trial({"lr": 1e-4, "lora.rank": 16})
    assert one.next() is None and one.is_over
    assert Results.of(study).is_under_way
    one.end_paused()
    assert waiting(study) == 0
    assert not Results.of(study).is_under_way and len(Results.of(study).trials) == 1
