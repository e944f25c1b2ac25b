"""Trackio: its database on this machine, and a server of one's own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.config.compose import compose
from sft.errors import BadInput
from sft.record import checkpoints, metrics
from sft.tracking import trackers
from tests.sweeps.conftest import chats, on_service, overrides, sweep  # noqa: F401 - fixtures
from tests.tracking.test_outbox import Life
from tests.tracking.test_trackers import run  # noqa: F401 - fixture

pytest.importorskip("trackio", reason="pip install trackio")


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """Trackio's storage in a folder of the test's own."""
    from trackio import sqlite_storage

    monkeypatch.delenv("TRACKIO_SERVER_URL", raising=False)
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    return sqlite_storage.SQLiteStorage


def points(storage, run, metric):  # noqa: F811
    logs = storage.get_logs("sft", run)
    return sorted((log["step"], log[metric]) for log in logs if metric in log)


def recorded(directory, metric):
    rows = metrics.read(Path(directory, "metrics.jsonl"))
    return [(row["step"], row[metric]) for row in rows if metric in row]


def test_a_run_is_in_the_database_with_its_points_settings_checkpoints_and_end(run, storage):  # noqa: F811
    assert run("tracking=trackio") == 0
    for metric in ("train/nll", "eval/nll"):
        assert points(storage, "first", metric) == recorded("run", metric)
    config = storage.get_run_config("sft", "first")
    assert config["lora.rank"] == 32 and config["status"] == "FINISHED"
    for record in checkpoints.read(Path("run/checkpoints.jsonl")):
        assert config[f"checkpoints.{record.name}"] == record.state_path


def test_trials_that_run_at_once_are_runs_of_one_group(sweep, storage):  # noqa: F811
    arguments = ("lr=1e-3,1e-2", "max_steps=2", "hydra.sweeper.study_name=s")
    assert sweep(*arguments, "hydra.sweeper.n_jobs=2", "tracking=trackio") == 0
    names = sorted(record["name"] for record in storage.get_run_records("sft"))
    assert names == ["0-lr0.001", "1-lr0.01"]
    for number, name in enumerate(names):
        assert storage.get_run_config("sft", name)["_Group"] == "s"
        directory = f"outputs/sweeps/s/{number}"
        assert points(storage, name, "train/nll") == recorded(directory, "train/nll")


def test_what_is_sent_twice_changes_nothing(tmp_path, storage):
    life = Life(tmp_path / "run", tracker="trackio")
    life.step(0, train_nll=1.0)
    assert trackers.TRACKERS["trackio"].flush(60) == []
    (tmp_path / "run/trackio.json").write_text(
        (tmp_path / "run/trackio.json").read_text().replace('"trained": 0', '"trained": -1')
    )
    life.record("KILLED")
    another = trackers.TRACKERS["trackio"]
    assert another.sync(tmp_path / "run") and another.flush(60) == []
    assert points(storage, "first", "train/nll") == [(0, 1.0)]


@pytest.fixture
def server(tmp_path):
    """The URL of a Trackio server, a process of its own, and a client of it."""
    from trackio.remote_client import RemoteClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import trackio; trackio.show(open_browser=False, block_thread=True, "
        f"server_port={port}, host='127.0.0.1')"
    )
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "of-server"),
        "TRACKIO_WRITE_TOKEN": "word",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            try:
                client = RemoteClient(url, write_token="word", verbose=False)
                client.predict(api_name="/get_all_projects")
                break
            except Exception:
                assert process.poll() is None
                time.sleep(0.1)
        yield url, client
    finally:
        process.kill()
        process.wait()


def test_a_server_gets_the_run(tmp_path, server, monkeypatch):
    url, client = server
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "word")
    life = Life(tmp_path / "run", tracker="trackio", options=f"server: '{url}'")
    life.step(0, train_nll=2.0)
    life.step(1, train_nll=1.0)
    life.end()
    assert trackers.TRACKERS["trackio"].flush(60) == []
    logs = client.predict(project="sft", run="first", api_name="/get_logs")
    found = [(log["step"], log["train/nll"]) for log in logs if "train/nll" in log]
    assert sorted(found) == [(0, 2.0), (1, 1.0)]


@pytest.mark.parametrize(
    "address, said",
    [("lab:7860", "is not an http"), ("https://x/?write_token=s3cret", "holds a secret")],
)
def test_an_address_that_is_none_or_holds_a_token_is_bad_input(address, said):
    with pytest.raises(BadInput, match=said):
        words = ["tracking=trackio", f"tracking.also.trackio.server='{address}'"]
        trackers.hooks(compose(words), {})
