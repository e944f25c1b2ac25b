import json
import os
import subprocess
import sys

import pytest

from sft import runs
from sft.record import rundir
from sft.tracking.store import open_client
from tests.tracking.tracked_run import TrackedRun


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def crash(place, uri):
    """A process that begins a run, trains two steps, and is gone."""
    code = (
        "import os, pathlib; from tests.tracking.tracked_run import TrackedRun\n"
        "from sft import tracking\n"
        f"run = TrackedRun(pathlib.Path('outputs/crashed'), {uri!r}, 'crashed').start()\n"
        "run.step(0, train_nll=2.0); tracking.flush(30); run.step(1, train_nll=1.0)\n"
        "os._exit(9)"
    )
    root = os.path.dirname(os.path.dirname(__file__))
    subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=os.environ | {"PYTHONPATH": root}, timeout=100
    )


def test_a_run_that_a_crash_left_open_is_closed_as_killed_on_disk_and_in_mlflow(place, capsys):
    uri = f"sqlite:///{place / 'mlflow.db'}"
    crash(place, uri)
    assert runs.main([]) == 0
    out = capsys.readouterr().out
    assert "closed as KILLED: outputs/crashed" in out and "KILLED" in out.splitlines()[2]
    facts = json.loads((place / "outputs/crashed/run.json").read_text())
    assert facts["status"] == "KILLED" and "without a word" in facts["reason"]
    client = open_client(uri)
    [run] = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "KILLED"
    assert len(client.get_metric_history(run.info.run_id, "train/nll")) == 2
    assert runs.main([]) == 0
    assert "closed" not in capsys.readouterr().out


def test_a_run_that_a_process_still_trains_is_left_alone(place, capsys):
    run = TrackedRun(place / "outputs/live", f"sqlite:///{place / 'mlflow.db'}")
    with rundir._lock(run.directory):
        assert runs.main([]) == 0
    assert "RUNNING" in capsys.readouterr().out.splitlines()[1]


def test_the_list_shows_model_rate_rank_and_last_values(place, capsys):
    run = TrackedRun(place / "outputs/a", f"sqlite:///{place / 'mlflow.db'}")
    run.step(0, train_nll=2.0, eval_nll=3.0)
    run.step(1, train_nll=1.5)
    run.record(status="FINISHED", started=1.0)
    assert runs.main(["outputs"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == list(runs.COLUMNS)
    assert row.split()[:8] == ["FINISHED", "tiny", "faq", "0.0001", "8", "1", "1.5000", "3.0000"]
    assert row.endswith("outputs/a")


def test_without_runs_it_says_how_to_make_one(place, capsys):
    assert runs.main([]) == 0
    assert "python -m sft" in capsys.readouterr().out
    assert runs.main(["nowhere"]) == 2


@pytest.mark.parametrize(
    "word, said",
    [
        ("nowhere", "there is no such folder"),
        ("models:/faq@champion", "is a name in MLflow"),
        ("runs:/" + "0" * 32, "is a name in MLflow"),
        ("0" * 32, "is a name in MLflow"),
    ],
)
def test_a_word_that_is_no_folder_says_what_it_is(place, capsys, word, said):
    assert runs.main([word]) == 2
    assert capsys.readouterr().err == (
        f"sft.runs: {word}: {said}; expected folders to look in (default: outputs/)\n"
    )
