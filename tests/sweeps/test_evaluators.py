"""A sweep by what an evaluator measures."""

import json

import pytest

from .conftest import study_of


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"question": "Say red and green.", "choices": ["red green", "blue black"], "answer": 0},
        {"question": "Say one and two.", "choices": ["one two", "red"], "answer": 0},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return ["evaluators=choice", "evaluators.args.path=questions.jsonl", "lr=1e-3,1e-2"]


@pytest.mark.parametrize("direction", [["hydra.sweeper.direction=maximize"], []])
def test_the_accuracy_of_choices_is_what_a_sweep_maximises(sweep, questions, capsys, direction):
    assert sweep(*questions, "hydra.sweeper.metric=eval/choice/accuracy", *direction) == 0
    said = capsys.readouterr().out
    assert "  best: highest eval/choice/accuracy\n" in said
    assert "complete; 2 of 2 trials, highest eval/choice/accuracy" in said


def test_a_metric_that_no_evaluator_has_is_refused_before_the_first_trial(
    sweep, questions, tmp_path, capsys
):
    assert sweep(*questions, "hydra.sweeper.metric=eval/choice/acuracy") == 2
    assert "did you mean 'eval/choice/accuracy'?" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.jsonl"))


PAUSING = (
    "hydra.sweeper.metric=eval/choice/accuracy", "hydra.sweeper.scheduler=asha", "eval_every=1",
    "max_steps=9", "epochs=2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=s",
)  # fmt: skip


@pytest.mark.slow
def test_trials_pause_where_their_metric_is_measured_and_nowhere_else(sweep, questions, capsys):
    assert sweep(*questions, *PAUSING, "evaluators.every=2") == 0
    said = capsys.readouterr().out
    paused = [step for trial in study_of("s").trials for step in trial.user_attrs["pauses"]]
    assert paused and not [step for step in paused if step % 2]
    assert said.count("resuming from checkpoint") <= len(paused)


def test_a_metric_that_is_measured_at_both_ends_alone_pauses_no_trial_and_is_refused(
    sweep, questions, capsys
):
    assert sweep(*questions, *PAUSING) == 2
    said = capsys.readouterr().err
    assert "scheduler=asha: eval/choice/accuracy is not measured between" in said
    assert "evaluators.every" in said
