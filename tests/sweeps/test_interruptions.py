"""Sweeps that are killed or interrupted, and go on as if nothing had happened."""

import contextlib
import os
import pty
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sft.record.checkpoints import read
from sft.record.rundir import read_facts
from sft.service.child import api_key
from sft.sweeps.study import storage

from .conftest import rows_of, study_of

STEPS = 8
GRID = (
    "lr=3e-3,1e-2", "lora.rank=2,4", f"max_steps={STEPS}", "epochs=2", "hydra.sweeper.n_jobs=2",
    "hydra.sweeper.study_name=s",
)  # fmt: skip


def rows_so_far(folder: Path) -> int:
    files = (folder / storage.ROOT / "s").glob("*/metrics.jsonl")
    return sum(len(file.read_text().splitlines()) for file in files)


def wait_for_rows(process, folder: Path, count: int) -> bool:
    """Until the trials have written so many rows; False if the sweep ended before."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if rows_so_far(folder) >= count:
            return True
        time.sleep(0.02)
    return False


def values(rows):
    """What a run measured, without what the clock says."""
    clock = ("timestamp", "time/step", "tokens/per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def final_weights(service_root: Path, folder: Path, number: int) -> bytes:
    """The adapter of a trial's final checkpoint, as the service wrote it."""
    record = read(folder / storage.ROOT / "s" / str(number) / "checkpoints.jsonl")[-1]
    assert record.final
    place = service_root / record.sampler_path.removeprefix("tinker://")
    return (place / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def service_root(local_service, tmp_path_factory) -> Path:
    (root,) = tmp_path_factory.getbasetemp().glob("service-root[0-9]*")
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("undisturbed"), "done": False}


@pytest.fixture
def check(sweep, monkeypatch, tmp_path, service_root, undisturbed):
    """Compares a disturbed sweep, now finished, with one that nothing disturbed."""

    def compare():
        folder = undisturbed["folder"]
        if not undisturbed["done"]:
            with monkeypatch.context() as elsewhere:
                elsewhere.chdir(folder)
                assert sweep(*GRID) == 0
            undisturbed["done"] = True
        study, reference = study_of("s", tmp_path), study_of("s", folder)
        assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4
        for trial, other in zip(study.trials, reference.trials, strict=True):
            assert (trial.params, trial.value) == (other.params, other.value)
            assert trial.intermediate_values == other.intermediate_values
            rows = rows_of("s", trial.number, tmp_path)
            assert [row["step"] for row in rows] == list(range(STEPS + 1))
            assert values(rows) == values(rows_of("s", trial.number, folder))
            ours = final_weights(service_root, tmp_path, trial.number)
            assert ours == final_weights(service_root, folder, trial.number)

    return compare


def mlflow_runs(folder: Path) -> list[tuple[str, str]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sft")
    runs = client.search_runs([experiment.experiment_id])
    return sorted(
        (run.data.tags.get("sweep.trial", run.info.run_name), run.info.status) for run in runs
    )


FINISHED = [(name, "FINISHED") for name in ("0", "1", "2", "3", "s")]


def kill_and_go_on(start_sweep, tmp_path, kills: int, seed: int) -> None:
    rng, log = random.Random(seed), tmp_path / "sweep.log"
    for _ in range(kills):
        process = start_sweep(*GRID)
        if wait_for_rows(process, tmp_path, rows_so_far(tmp_path) + rng.randint(1, 7)):
            time.sleep(rng.random() * 0.3)
            process.kill()
        process.wait()
    process = start_sweep(*GRID)
    assert process.wait(180) == 0, log.read_text()


@pytest.mark.slow
def test_a_sweep_interrupted_by_ctrl_c_and_then_killed_goes_on_where_it_was(
    start_sweep, tmp_path, check
):
    process = start_sweep(*GRID)
    assert wait_for_rows(process, tmp_path, 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    said = (tmp_path / "sweep.log").read_text()
    assert "no new trials" in said and "to go on: python -m sft --multirun" in said
    begun = [t for t in study_of("s", tmp_path).trials if t.state == TrialState.RUNNING]
    assert begun
    for trial in begun:  # each has saved what it had
        if any("train/nll" in row for row in rows_of("s", trial.number, tmp_path)):
            folder = tmp_path / storage.ROOT / "s" / str(trial.number)
            assert read(folder / "checkpoints.jsonl")

    kill_and_go_on(start_sweep, tmp_path, kills=1, seed=1)
    check()
    assert mlflow_runs(tmp_path) == FINISHED


@pytest.mark.slow
def test_a_sweep_killed_five_times_gives_what_an_undisturbed_one_gives(
    start_sweep, tmp_path, check
):
    kill_and_go_on(start_sweep, tmp_path, kills=5, seed=2)
    check()
    assert mlflow_runs(tmp_path) == FINISHED


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(start_sweep, tmp_path):
    process = start_sweep(*GRID, "max_steps=400", "epochs=200", "tracking.uri=null")
    assert wait_for_rows(process, tmp_path, 3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130


@pytest.mark.slow
def test_a_sweep_whose_terminal_is_closed_saves_and_stops(tmp_path, overrides, local_service):
    arguments = [*overrides, "service=custom", f"service.base_url={local_service}", *GRID]
    arguments += ["max_steps=400", "epochs=200"]
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(tmp_path)
            os.environ["TINKER_API_KEY"] = api_key(local_service)
            os.execv(sys.executable, [sys.executable, "-m", "sft", "--multirun", *arguments])
        finally:
            os._exit(99)
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 120
    while rows_so_far(tmp_path) < 3 and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
        time.sleep(0.02)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    saved = list((tmp_path / storage.ROOT / "s").glob("*/checkpoints.jsonl"))
    assert saved
    for file in saved:
        facts = read_facts(file.parent)
        assert read(file)[-1].step == facts["steps"] < 400
        assert facts["reason"] == "interrupted by SIGHUP"
    assert {status for _, status in mlflow_runs(tmp_path)} == {"KILLED"}
