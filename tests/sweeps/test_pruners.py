"""What each pruner ends, given a stated sequence of reports."""

import optuna
import pytest

from sft.errors import BadInput
from sft.sweeps.scheduling import pruners


def replay(pruner, reports):
    """Reports (trial, step, value) in order; returns the trials pruned, with the step."""
    study = optuna.create_study(pruner=pruner)
    trials = {name: study.ask() for name in dict.fromkeys(r[0] for r in reports)}
    pruned = {}
    for name, step, value in reports:
        if name in pruned:
            continue
        trials[name].report(value, step)
        if trials[name].should_prune():
            pruned[name] = step
            study.tell(trials[name], state=optuna.trial.TrialState.PRUNED)
    return pruned


SIDE_BY_SIDE = [
    ("a", 10, 1.0),
    ("b", 10, 2.0),
    ("c", 10, 0.9),
    ("d", 10, 3.0),
    ("a", 20, 0.8),
    ("c", 20, 0.9),
    ("a", 30, 0.7),
    ("c", 30, 0.6),
]


@pytest.mark.parametrize(
    ("pruner", "pruned"),
    [
        (pruners.make("none"), {}),
        # Rungs at 10 and 30 steps; one in three goes on, and the best so far always does.
        (pruners.make("asha", min_steps=10), {"b": 10, "d": 10}),
        # No trial is finished, so there is no median.
        (pruners.make("median", min_steps=1), {}),
    ],
)
def test_trials_side_by_side(pruner, pruned):
    assert replay(pruner, SIDE_BY_SIDE) == pruned


def test_what_asha_prunes_depends_on_the_order_of_arrival():
    worst_first = [("d", 10, 3.0), ("b", 10, 2.0), ("a", 10, 1.0), ("c", 10, 0.9)]
    assert replay(pruners.make("asha", min_steps=10), worst_first) == {}
    assert replay(pruners.make("asha", min_steps=10), worst_first[::-1]) == {
        "a": 10,
        "b": 10,
        "d": 10,
    }


def test_asha_does_not_prune_before_the_first_rung():
    reports = [("a", 5, 1.0), ("b", 5, 9.0), ("b", 9, 9.0)]
    assert replay(pruners.make("asha", min_steps=10), reports) == {}


def test_the_median_pruner_compares_with_finished_trials():
    study = optuna.create_study(pruner=pruners.make("median", min_steps=5))
    for value in (1.0, 1.1, 1.2, 1.3):
        trial = study.ask()
        trial.report(value, 10)
        study.tell(trial, value)
    trial = study.ask()
    trial.report(2.0, 5)
    assert not trial.should_prune()
    trial.report(2.0, 10)
    assert trial.should_prune()


def test_hyperband_plans_brackets_for_a_whole_trial():
    assert pruners.make("hyperband", min_steps=2, max_steps=20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "asah"}, "did you mean 'asha'"),
        ({"name": "asha", "min_steps": 0}, "pruner_min_steps"),
        ({"name": "asha", "reduction": 1}, "pruner_reduction"),
    ],
)
def test_bad_values_are_bad_input(arguments, words):
    with pytest.raises(BadInput, match=words):
        pruners.make(**arguments)
