"""A sweep through a real Ray cluster of this machine, with its study in PostgreSQL."""

import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from sft.service.child import api_key
from sft.sweeps.study import storage

from .conftest import LONG, PROJECT, assert_goes_on_from_its_checkpoint, rows_of
from .test_postgresql import database  # noqa: F401 - a fixture

pytest.importorskip(
    "hydra_plugins.hydra_ray_launcher", reason="hydra-ray-launcher is not installed"
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray_cluster(local_service):
    """The address of a Ray whose only node this machine is, and which wants a key.

    Its tasks have the environment that it was started in: the service's key among it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # Ray's sockets lie in this folder: their paths have to be short.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("TINKER_API_KEY", api_key(local_service))
        patch.setenv("PYTHONPATH", str(PROJECT))
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2",
            "--include-dashboard=false", f"--temp-dir={folder}",
        ]  # fmt: skip
        log = Path(folder) / "start.log"
        with open(log, "w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"Ray did not start: {log.read_text()}")
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture
def arguments(ray_cluster, database) -> tuple[str, ...]:  # noqa: F811
    return (
        "hydra/launcher=ray", f"hydra.launcher.ray.init.address={ray_cluster}",
        "+hydra.launcher.ray.init.object_store_memory=null",
        "tracking.uri=null", "hydra.sweeper.n_jobs=2", "hydra.sweeper.study_name=s",
        "save_every=0", f"hydra.sweeper.storage={database}",
    )  # fmt: skip


def test_trials_pause_and_go_on_in_tasks_of_a_cluster(start_sweep, arguments, database, tmp_path):  # noqa: F811
    process = start_sweep(
        *arguments, "lr=1e-4,1e-2,1e-1", "max_steps=9", "epochs=2", "eval_every=1",
        "hydra.sweeper.scheduler=asha",
    )  # fmt: skip
    assert process.wait(400) == 0, (tmp_path / "sweep.log").read_text()
    study, _ = storage.load_study("s", url=database)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 1 and len(states) == 3
    best = study.best_trial
    assert [row["step"] for row in rows_of("s", best.number, tmp_path)] == list(range(10))


def worker_of_the_trial() -> psutil.Process:
    """The process of the only task that runs."""
    found = [p for p in psutil.process_iter() if p.name().startswith("ray::_run_job")]
    (worker,) = found
    return worker


def test_a_trial_whose_task_is_killed_goes_on_from_its_checkpoint(start_sweep, arguments, tmp_path):
    process = start_sweep(*arguments, *LONG)
    assert_goes_on_from_its_checkpoint(process, tmp_path, lambda: worker_of_the_trial().kill())
