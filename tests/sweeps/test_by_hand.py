"""Paused and pruned trials that the user goes on with: `sft.resume STUDY/7`, `sft.fork STUDY/7`."""

import shlex

import pytest
from optuna.trial import TrialState

from sft import fork, resume
from sft.cost.prices import dollars
from sft.files import locked
from sft.record.rundir import read_facts
from sft.service.child import api_key
from sft.sweeps import report
from sft.sweeps.scheduling.curves import Curve, State
from sft.sweeps.study import liveness, standing, storage
from sft.sweeps.sweeper import Sweep

from .conftest import rows_of, study_of
from .test_pausing import ONE_AT_A_TIME, STEPS, folder_of

PRICES = ("prices.train=100", "prices.prefill=0", "prices.sample=0")
NEW = Curve(0, {}, (), State.PAUSED, 1)


@pytest.fixture(autouse=True)
def key(monkeypatch, local_service):
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))


@pytest.fixture
def stopped(sweep, monkeypatch):
    """A study whose sweep was stopped while trials were paused; returns it and what goes on."""
    started, may_start = [], Sweep.may_start
    monkeypatch.setattr(
        Sweep, "may_start", lambda self: len(started.append(1) or started) < 11 and may_start(self)
    )
    assert sweep(*ONE_AT_A_TIME, *PRICES) == 0
    monkeypatch.setattr(Sweep, "may_start", may_start)
    return study_of("s")


def paused(study) -> list[int]:
    return [t.number for t in study.trials if t.user_attrs.get("paused") and not t.values]


def command_of(text: str, name: str) -> list[str]:
    """The words of the command that the report gives for `name`."""
    line = next(line for line in text.splitlines() if f"python -m {name} " in line)
    return shlex.split(line.partition(f"python -m {name} ")[2])


def test_the_report_of_a_stopped_sweep_says_what_pausing_saved_and_gives_commands(stopped, capsys):
    assert report.main(["s"]) == 0
    text = capsys.readouterr().out
    assert "  paused\n" in text
    whole = max(t.user_attrs["tokens"] for t in stopped.trials if t.values) * len(stopped.trials)
    spared = whole - sum(t.user_attrs["tokens"] for t in stopped.trials)
    assert f"every trial to its end would have taken {whole:,}: {spared:,} tokens spared" in text
    assert f"worth {dollars(spared / 1e4)}" in text
    word = command_of(text, "sft.resume")[0]
    assert word.startswith("s/") and int(word[2:]) in paused(stopped)
    page = (storage.ROOT / "s/report/report.html").read_text()
    assert word in page and (storage.ROOT / "s/report/learning_curves.png").exists()


@pytest.mark.slow
def test_a_paused_trial_that_was_finished_by_hand_counts_once_its_sweep_goes_on(
    stopped, sweep, capsys
):
    assert report.main(["s"]) == 0
    words = command_of(capsys.readouterr().out, "sft.resume")
    number = int(words[0][2:])
    assert resume.main(words) == 0
    last = rows_of("s", number)[-1]
    assert sweep(*ONE_AT_A_TIME) == 0
    trial = study_of("s").trials[number]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, last["eval/nll"])
    assert sorted(trial.intermediate_values) == list(range(STEPS + 1))
    assert rows_of("s", number)[-1] == last
    assert read_facts(folder_of(number))["status"] == "FINISHED"


@pytest.mark.slow
def test_a_paused_trial_that_is_trained_by_hand_right_now_is_left_alone(stopped):
    number = paused(stopped)[0]
    alive = liveness.LockedFiles(storage.ROOT / "s" / "workers")

    def state() -> State:
        return next(c.state for c in standing.curves(stopped, alive, NEW) if c.number == number)

    assert state() is State.PAUSED
    with locked(folder_of(number) / "run.lock"):
        assert state() is State.RUNNING
    assert state() is State.PAUSED
    alive.close()


@pytest.mark.slow
def test_a_pruned_trial_is_trained_to_its_end_by_hand_and_the_study_stays_as_it_is(sweep, capsys):
    assert sweep(*ONE_AT_A_TIME) == 0
    before = [(t.number, t.state, t.values, t.user_attrs) for t in study_of("s").trials]
    assert report.main(["s"]) == 0
    text = capsys.readouterr().out
    best = next(line for line in text.splitlines() if line.startswith("best trial"))
    words = command_of(text, "sft.resume")
    number = int(words[0][2:])
    assert resume.main(words) == 0
    assert report.main(["s"]) == 0
    said = capsys.readouterr().out
    value = rows_of("s", number)[-1]["eval/nll"]
    assert f"trial {number}: trained on by hand to its end, eval/nll {value:.4f}" in said
    assert best in said
    assert sweep(*ONE_AT_A_TIME) == 0
    assert [(t.number, t.state, t.values, t.user_attrs) for t in study_of("s").trials] == before
    assert read_facts(folder_of(number))["status"] == "FINISHED"


@pytest.mark.slow
def test_a_paused_trial_is_branched_by_hand_and_stays_paused(stopped, capsys):
    assert report.main(["s"]) == 0
    words = command_of(capsys.readouterr().out, "sft.fork")
    before = paused(stopped)
    assert fork.main(words) == 0
    assert "a fork of s/" in capsys.readouterr().out
    assert paused(study_of("s")) == before
