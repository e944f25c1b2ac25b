"""Trials that pause at a rung, their entry in the study open, and are thawed or ended."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sft.record.checkpoints import read
from sft.record.rundir import read_facts
from sft.sweeps.study import storage
from sft.sweeps.study.ledger import Ledger
from sft.sweeps.study.liveness import is_paused
from sft.tracking.tracked_run import read_state

from .conftest import rows_of, study_of

RATES = (1e-5, 1e-4, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = 9
SPACE = (
    f"lr={','.join(map(str, RATES))}", f"max_steps={STEPS}", "epochs=2", "eval_every=1",
    "save_every=0", "hydra.sweeper.scheduler=asha", "hydra.sweeper.study_name=s",
)  # fmt: skip
ONE_AT_A_TIME = (*SPACE, "hydra.sweeper.n_jobs=1")


def folder_of(number: int) -> Path:
    return storage.ROOT / "s" / str(number)


def numbers(rows):
    """What a run measured, without what the clock says."""
    clock = ("timestamp", "time/step", "tokens/per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


@pytest.fixture
def study(sweep):
    """A finished sweep whose trials paused."""
    assert sweep(*ONE_AT_A_TIME, tracking="sqlite:///mlflow.db") == 0
    return study_of("s")


def mlflow_runs() -> dict[str, tuple[str, str]]:
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("sft")
    return {
        run.data.tags["sweep.trial"]: (run.info.status, run.data.tags["sft.status"])
        for run in client.search_runs([experiment.experiment_id])
        if "sweep.trial" in run.data.tags
    }


def test_the_best_go_on_under_their_own_number_and_the_others_end_pruned(study):
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    paused = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(study.trials) == len(RATES) == len(complete) + len(paused)
    assert complete and paused
    for trial in complete:
        assert [row["step"] for row in rows_of("s", trial.number)] == list(range(STEPS + 1))
        assert read_facts(folder_of(trial.number))["status"] == "FINISHED"
        assert list(trial.intermediate_values) == list(range(STEPS + 1))
    for trial in paused:
        step = max(trial.intermediate_values)
        assert 0 < step < STEPS and trial.value == trial.intermediate_values[step]
        facts = read_facts(folder_of(trial.number))
        assert facts["status"] == "PRUNED" and f"paused at step {step}" in facts["reason"]
        assert read(folder_of(trial.number) / "checkpoints.jsonl")[-1].step == step
    runs = mlflow_runs()
    assert len(runs) == len(RATES)  # a thawed trial goes on in its MLflow run
    for trial in complete:
        assert runs[str(trial.number)] == ("FINISHED", "FINISHED")
    for trial in paused:
        assert runs[str(trial.number)] == ("KILLED", "PRUNED")


@pytest.mark.slow
def test_a_trial_that_paused_measures_what_it_would_have_measured_without(study, sweep):
    whole = ("hydra.sweeper.scheduler=none", "hydra.sweeper.study_name=whole")
    assert sweep(*ONE_AT_A_TIME, *whole) == 0
    compared = 0
    for trial in study.trials:
        there = rows_of("whole", trial.number)
        ours = numbers(rows_of("s", trial.number))
        assert ours[:-1] == numbers(there)[: len(ours) - 1]
        assert ours[-1]["eval/nll"] == there[len(ours) - 1]["eval/nll"]
        compared += len(ours)
    assert compared < len(RATES) * (STEPS + 1)


@pytest.mark.slow
def test_with_repeats_a_trial_pauses_as_a_whole(sweep):
    assert sweep(*SPACE, "hydra.sweeper.repeats=2", "lr=1e-4,3e-3,1e-2") == 0
    study = study_of("s")
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in study.trials:
        steps = [rows_of("s", f"{trial.number}-{repeat}")[-1]["step"] for repeat in (0, 1)]
        assert steps == [max(trial.intermediate_values)] * 2


@pytest.mark.slow
def test_without_an_eval_every_trials_are_evaluated_at_their_rungs(sweep, capsys):
    assert sweep(*ONE_AT_A_TIME, "eval_every=0", "lr=1e-4,1e-2,1e-1", "max_steps=18") == 0
    said = capsys.readouterr().out
    assert "trials that pause are evaluated on the way, here every 1 steps" in said
    assert "eval_every: 1\n" in (folder_of(0) / "config.yaml").read_text()


@pytest.mark.slow
def test_a_budget_of_tokens_ends_the_sweep_and_a_larger_one_goes_on_with_what_paused(sweep, capsys):
    assert sweep(*ONE_AT_A_TIME) == 0
    whole = sum(t.user_attrs["tokens"] for t in study_of("s").trials)
    named = ("hydra.sweeper.study_name=s2",)
    capsys.readouterr()
    assert sweep(*ONE_AT_A_TIME, *named, f"hydra.sweeper.max_tokens={whole // 2}") in (0, 1)
    said = capsys.readouterr().out
    assert "what comes next would pass it" in said and "no whole trial fits" not in said
    assert "hydra.sweeper.max_tokens=…" in said.partition("to go on:")[2]
    spent = sum(t.user_attrs["tokens"] for t in study_of("s2").trials)
    assert spent <= whole // 2
    begun = study_of("s2").trials
    assert all(t.user_attrs.get("paused") or t.state.is_finished() for t in begun)  # none was cut
    assert not [t for t in begun if t.state == TrialState.PRUNED]
    assert sweep(*ONE_AT_A_TIME, *named, f"hydra.sweeper.max_tokens={2 * whole}") == 0
    ended = study_of("s2").trials
    assert {t.state for t in ended} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.slow
def test_a_sweep_interrupted_between_two_turns_says_what_is_left_and_how_to_go_on(
    sweep, capsys, monkeypatch
):
    next_turn = Ledger.next

    def interrupted(ledger):
        turn = next_turn(ledger)
        if any(map(is_paused, ledger.study.get_trials(deepcopy=False))):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # until it has been heard
        return turn

    words = (*ONE_AT_A_TIME, "lr=1e-4,3e-3")
    with monkeypatch.context() as context:
        context.setattr(Ledger, "next", interrupted)
        assert sweep(*words) == 130
    said = capsys.readouterr().out
    assert "study s: interrupted after" in said and "(1 paused, 1 unfinished)" in said
    assert "to go on: python -m sft --multirun" in said
    assert sweep(*words) == 0
    assert all(t.state.is_finished() for t in study_of("s").trials)


REFUSED = [
    (("hydra.sweeper.scheduler=azha",), "hydra.sweeper.scheduler: 'azha'", "did you mean 'asha'"),
    (("hydra.sweeper.pruner=median",), "hydra.sweeper.scheduler=asha", "none for the other"),
    (("hydra.sweeper.metric=[eval/nll,lora.rank]",), "several metrics", "scheduler=none"),
]


@pytest.mark.parametrize(("words", "named", "advice"), REFUSED)
def test_what_cannot_pause_is_refused_before_anything_is_made(sweep, capsys, words, named, advice):
    assert sweep(*SPACE, *words) == 2
    said = capsys.readouterr().err
    assert named in said and advice in said
    assert not storage.ROOT.exists()


def kill_at_random(start_sweep, folder: Path, kills: int, seed: int) -> None:
    """Start the sweep, kill it once it has written some more rows, and so on; then let it end."""
    rng = random.Random(seed)

    def rows() -> int:
        files = (folder / storage.ROOT / "s").glob("*/metrics.jsonl")
        return sum(len(file.read_text().splitlines()) for file in files)

    for _ in range(kills):
        process = start_sweep(*ONE_AT_A_TIME, "tracking.uri=null")
        wanted, deadline = rows() + rng.randint(2, 8), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and rows() < wanted:
            time.sleep(0.02)
        time.sleep(rng.random() * 0.5)
        process.kill()
        process.wait()
    process = start_sweep(*ONE_AT_A_TIME, "tracking.uri=null")
    assert process.wait(300) == 0, (folder / "sweep.log").read_text()


@pytest.mark.slow
def test_a_sweep_with_paused_trials_is_killed_five_times_and_decides_as_if_it_were_not(
    start_sweep, sweep, tmp_path
):
    kill_at_random(start_sweep, tmp_path, kills=5, seed=1)
    disturbed = study_of("s", tmp_path)
    assert sweep(*ONE_AT_A_TIME, "hydra.sweeper.study_name=quiet") == 0
    for trial, other in zip(disturbed.trials, study_of("quiet").trials, strict=True):
        assert (trial.state, trial.params, trial.value) == (other.state, other.params, other.value)
        assert trial.intermediate_values == other.intermediate_values
        rows = rows_of("s", trial.number, tmp_path)
        assert numbers(rows) == numbers(rows_of("quiet", other.number))


@pytest.mark.slow
def test_a_trial_that_began_on_another_machine_goes_on_from_its_last_checkpoint(
    start_sweep, sweep, tmp_path
):
    """Its run directory is not here; the study, the service and MLflow are."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    trial_of = ("lr=1e-3", "max_steps=90", "epochs=20", "eval_every=30", "save_every=3")
    words = (*trial_of, f"tracking.uri={store}", "hydra.sweeper.study_name=s")
    process = start_sweep(*words)
    here = tmp_path / folder_of(0)
    deadline = time.monotonic() + 120
    while not (study_knows_a_checkpoint(tmp_path) and read_state(here).get("run_id")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    of_mlflow = read_state(here)["run_id"]
    here.rename(tmp_path / "of another machine")
    assert start_sweep(*words).wait(300) == 0, (tmp_path / "sweep.log").read_text()
    rows = rows_of("s", 0, tmp_path)
    assert rows[0]["step"] >= 3
    assert sweep(*trial_of, "hydra.sweeper.study_name=quiet") == 0
    undisturbed = {row["step"]: row for row in numbers(rows_of("quiet", 0))}
    for row in numbers(rows):
        for metric in {"train/nll", "eval/nll"} & row.keys():
            assert row[metric] == undisturbed[row["step"]][metric]
    [trial] = study_of("s", tmp_path).trials
    assert trial.value == study_of("quiet").trials[0].value
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("sft").experiment_id
    [run] = client.search_runs([experiment], "tags.`sweep.trial` = '0'")
    assert (run.info.run_id, run.info.status) == (of_mlflow, "FINISHED")
    history = client.get_metric_history(run.info.run_id, "train/nll")
    assert {row["step"] for row in rows if "train/nll" in row} <= {point.step for point in history}


def study_knows_a_checkpoint(folder: Path) -> bool:
    journal = folder / storage.ROOT / "s" / storage.JOURNAL
    return journal.exists() and "saved.0" in journal.read_text()
