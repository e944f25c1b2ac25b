"""A real `mlflow server` that dies in the middle of a run, and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from sft import tracking
from sft.past.choosing import choose
from sft.past.find import find
from sft.promote import promote
from sft.tracking.store import open_client
from tests.tracking.tracked_run import TrackedRun


class Server:
    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        store = f"sqlite:///{self.folder / 'mlflow.db'}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
            + ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "files")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(3_000):  # machines are slow at times
            try:
                urlopen(f"{self.uri}/health", timeout=2).close()
                return self
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def steps_in(client, run):
    return [m.step for m in client.get_metric_history(run.hook.run_id, "train/nll")]


@pytest.mark.slow
def test_a_server_that_is_down_dies_and_comes_back_has_every_point_once(server, tmp_path, caplog):
    early = TrackedRun(tmp_path / "early", server.uri).start()
    for step in range(2_000):
        early.step(step, train_nll=float(step))
    [sentence] = tracking.flush(20)
    assert "python -m sft.runs" in sentence and str(early.directory) in sentence
    early.hook._mirror.forget_rows_beyond(1_000)  # as if the run were ten times as long
    early.step(2_000, train_nll=0.5)
    early.end()
    server.start()
    assert tracking.flush(60) == []

    run = TrackedRun(tmp_path / "run", server.uri).start()
    run.step(0, train_nll=1.0)
    run.checkpoint(1)
    assert tracking.flush(60) == []
    server.kill()
    for step in range(1, 50):
        run.step(step, train_nll=1.0 + step)
    run.checkpoint(50, "final", {"eval/nll": 2.0})
    run.end()
    assert len(tracking.flush(30)) == 1
    server.start()
    assert tracking.flush(60) == []

    assert len([r for r in caplog.records if "does not answer" in r.message]) == 2
    client = open_client(server.uri)
    assert steps_in(client, early) == list(range(2_001))
    assert steps_in(client, run) == list(range(50))
    found = client.get_run(run.hook.run_id)
    assert found.info.status == "FINISHED" and len(found.outputs.model_outputs) == 2
    files = {file.path for file in client.list_artifacts(run.hook.run_id)}
    assert {"config.yaml", "run.json"} <= files
    experiment = client.get_experiment_by_name("tests")
    assert len(client.search_runs([experiment.experiment_id])) == 2


@pytest.mark.slow
def test_a_checkpoint_is_promoted_in_the_registry_of_a_server(server, tmp_path):
    server.kill()
    server.start()
    run = TrackedRun(tmp_path / "run", server.uri).start(held_out_digest="held")
    record = run.checkpoint(1, "final", {"eval/nll": 2.0})
    run.end()
    assert tracking.flush(60) == []
    said = promote(str(run.directory), "served@champion")
    assert said.endswith("is now version 1 of served, and models:/served@champion names it")
    client = open_client(server.uri)
    version = client.get_model_version_by_alias("served", "champion")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert version.tags["sft.state_path"] == model.tags["sft.state_path"] == record.state_path
    assert model.tags["mlflow.modelVersions"].count("served") == 1
    [metric] = model.metrics
    assert (metric.dataset_name, metric.dataset_digest) == ("faq (held out)", "held")
    found = find("models:/served@champion", server.uri)
    assert choose(found).state_path == record.state_path
