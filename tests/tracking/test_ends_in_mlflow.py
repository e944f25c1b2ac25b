"""How runs end, go on and are sent later in MLflow: nothing is lost, nothing stands twice."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft import tracking
from sft.tracking.store import open_client
from tests.tracking.tracked_run import TrackedRun, only_run


@pytest.mark.parametrize(
    "status, expected", [("FAILED", "FAILED"), ("KILLED", "KILLED"), ("PRUNED", "KILLED")]
)
def test_every_end_has_its_status_and_error(uri, tmp_path, status, expected):
    TrackedRun(tmp_path / "run", uri).start().end(status, "the reason")
    tracking.flush(30)
    _, found = only_run(uri)
    assert found.info.status == expected and found.info.end_time
    assert found.data.tags["sft.status"] == status
    assert found.data.tags["sft.error"] == "the reason"


def test_runs_side_by_side_and_under_a_parent_are_not_mixed_up(uri, tmp_path):
    parent = TrackedRun(tmp_path / "parent", uri, name="parent").start()
    tracking.flush(30)
    runs = [
        TrackedRun(
            tmp_path / f"{i}",
            uri,
            f"run{i}",
            parent_run_id=parent.hook.run_id,
            tags={"trial": f"{i}"},
        ).start()
        for i in range(4)
    ]
    for step in range(5):
        for i, run in enumerate(runs):
            run.step(step, train_nll=100.0 * i + step)
    for run in [*runs, parent]:
        run.end()
    assert tracking.flush(60) == []
    client = open_client(uri)
    for i, run in enumerate(runs):
        found = client.get_run(run.hook.run_id)
        assert found.data.tags["mlflow.parentRunId"] == parent.hook.run_id
        assert found.data.tags["trial"] == str(i)
        history = client.get_metric_history(run.hook.run_id, "train/nll")
        assert [m.value for m in history] == [100.0 * i + step for step in range(5)]


def test_infinite_and_missing_values_do_not_stop_the_rest(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.step(0, train_nll=math.nan, lr=math.inf)
    run.step(1, train_nll=1.0)
    run.end()
    assert tracking.flush(30) == []
    client, found = only_run(uri)
    history = client.get_metric_history(found.info.run_id, "train/nll")
    assert math.isnan(history[0].value) and history[1].value == 1.0


def test_a_resumed_run_goes_on_in_its_mlflow_run_and_its_last_values_count(uri, tmp_path):
    dead = TrackedRun(tmp_path / "run", uri).start()
    for step in range(4):
        dead.step(step, train_nll=10.0 + step)
    tracking.flush(30)
    run_id = dead.hook.run_id
    dead.metrics.truncate(2)
    time.sleep(0.002)
    resumed = TrackedRun(tmp_path / "run", uri).start(start_step=2)
    for step in range(2, 4):
        resumed.step(step, train_nll=20.0 + step)
    resumed.end()
    tracking.flush(30)
    client, found = only_run(uri)
    assert found.info.run_id == run_id and found.info.status == "FINISHED"
    assert found.data.tags["sft.resumed_at"] == "2"
    assert "cannot delete points" in found.data.tags["mlflow.note.content"]
    assert found.data.metrics["train/nll"] == 23.0
    history = client.get_metric_history(run_id, "train/nll")
    assert sorted((m.step, m.value) for m in history) == [
        (0, 10.0),
        (1, 11.0),
        (2, 12.0),
        (2, 22.0),
        (3, 13.0),
        (3, 23.0),
    ]


def test_how_an_earlier_life_ended_does_not_outlast_the_one_that_goes_on(uri, tmp_path):
    TrackedRun(tmp_path / "run", uri, tags={"sft.verdict": "DIFFERS"}).start().end(
        "KILLED", "the service went away", reason="interrupted by SIGINT"
    )
    tracking.flush(30)
    _, found = only_run(uri)
    assert {"sft.error", "sft.reason", "sft.verdict"} <= found.data.tags.keys()
    TrackedRun(tmp_path / "run", uri).start(start_step=2).end()
    tracking.flush(30)
    _, found = only_run(uri)
    assert found.info.status == found.data.tags["sft.status"] == "FINISHED"
    assert not {"sft.error", "sft.reason", "sft.verdict"} & found.data.tags.keys()


def test_a_verdict_stays_when_an_ended_runs_rest_is_sent(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.end()
    tracking.flush(30)
    run.record(status="FINISHED", verdict="agrees: all")
    open_client(uri).set_tag(run.hook.run_id, "sft.verdict", "agrees: all")
    file = tmp_path / "run" / "mlflow.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended": False}))
    assert tracking.sync(run.directory) and tracking.flush(30) == []
    _, found = only_run(uri)
    assert found.data.tags["sft.verdict"] == "agrees: all"


def test_what_a_dead_process_did_not_send_is_sent_by_the_next_command(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri)
    code = (
        "import os, sys, pathlib; from tests.tracking.tracked_run import TrackedRun\n"
        f"run = TrackedRun(pathlib.Path({str(run.directory)!r}), {uri!r}).start()\n"
        "run.step(0, train_nll=2.0); run.step(1, train_nll=1.0); run.checkpoint(1, 'final')\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    run.record(status="KILLED")
    assert tracking.sync(run.directory)
    assert tracking.flush(30) == []
    client, found = only_run(uri)
    assert found.info.status == "KILLED"
    assert len(client.get_metric_history(found.info.run_id, "train/nll")) == 2
    assert len(found.outputs.model_outputs) == 1
    assert not tracking.sync(run.directory)


def test_a_locked_database_is_waited_for_without_holding_up_the_run(uri, tmp_path, caplog):
    import sqlite3

    run = TrackedRun(tmp_path / "run", uri).start()
    tracking.flush(30)
    lock = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    run.step(0, train_nll=1.0)
    run.end()
    assert run.hook._mirror.pending
    lock.execute("ROLLBACK")
    assert tracking.flush(60) == []
    _, found = only_run(uri)
    assert found.data.metrics["train/nll"] == 1.0 and found.info.status == "FINISHED"


@pytest.mark.slow
def test_several_processes_open_a_fresh_store_together(tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    code = (
        "import sys, pathlib; from tests.tracking.tracked_run import TrackedRun\n"
        "from sft import tracking\n"
        f"run = TrackedRun(pathlib.Path({str(tmp_path)!r}) / sys.argv[1], {uri!r}, sys.argv[1])\n"
        "run.start().step(0, train_nll=1.0); run.end(); sys.exit(len(tracking.flush(60)))"
    )
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"run{i}"], cwd=root) for i in range(3)
    ]
    assert [process.wait(90) for process in processes] == [0, 0, 0]
    client = open_client(uri)
    experiment = client.get_experiment_by_name("tests")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"run0", "run1", "run2"}
    assert sorted(file.name for file in (tmp_path / "new").glob("mlflow.db*")) == [
        "mlflow.db",
        "mlflow.db.lock",
    ]
