"""A sweep through a real Slurm of one node, with its study in PostgreSQL."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from sft.sweeps.study import storage

from .conftest import LONG, assert_goes_on_from_its_checkpoint, rows_of
from .test_postgresql import database  # noqa: F401 - a fixture

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def config_of(folder: Path) -> str:
    """Of a Slurm with this machine as its only node."""
    node = socket.gethostname().partition(".")[0]
    return f"""
ClusterName=sweeps
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName={node} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of this machine; the folder of its logs."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (apt-get install slurm-wlm munge)")
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons start jobs of users, and have to be started by root")
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed"
    )
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(config_of(folder))
    files = {"socket": "munge.socket", "key-file": "key", "pid-file": "munged.pid",
             "seed-file": "seed", "log-file": "munged.log"}  # fmt: skip
    munged = [f"--{option}={folder / name}" for option, name in files.items()]
    commands = [
        ["munged", "--foreground", "--force", *munged],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        daemons = []
        try:
            for command in commands:
                log = open(folder / f"{command[0]}.out", "w")
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
                time.sleep(1.0)
            wait_for("idle", "sinfo", "--noheader", "--format=%t")
            yield folder
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def wait_for(words: str, *command: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if words in output(*command):
            return
        time.sleep(0.2)
    pytest.fail(f"{' '.join(command)} never said {words}: {output(*command)}")


@pytest.fixture
def arguments(database) -> tuple[str, ...]:  # noqa: F811
    return (
        "hydra/launcher=submitit_slurm", "hydra.launcher.partition=all",
        "hydra.launcher.timeout_min=10", "hydra.launcher.cpus_per_task=1", "tracking.uri=null",
        "hydra.sweeper.n_jobs=2", "hydra.sweeper.study_name=s",
        f"hydra.sweeper.storage={database}",
    )  # fmt: skip


@pytest.mark.slow
def test_trials_pause_and_go_on_in_jobs_of_a_cluster(slurm, start_sweep, arguments, tmp_path):
    process = start_sweep(
        *arguments, "lr=1e-4,1e-2,1e-1", "max_steps=9", "epochs=2", "eval_every=1",
        "save_every=0", "hydra.sweeper.scheduler=asha",
    )  # fmt: skip
    assert process.wait(400) == 0, (tmp_path / "sweep.log").read_text()
    study, _ = storage.load_study("s", url=arguments[-1].partition("storage=")[2])
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 1 and len(states) == 3
    best = study.best_trial
    assert [row["step"] for row in rows_of("s", best.number, tmp_path)] == list(range(10))


def kill_jobs() -> None:
    for process in psutil.process_iter(["cmdline"]):  # None of one that has just ended
        if "submitit.core._submit" in (process.info["cmdline"] or ()):
            process.kill()


@pytest.mark.slow
def test_a_trial_whose_job_is_lost_goes_on_from_its_checkpoint_in_another(
    slurm, start_sweep, arguments, tmp_path
):
    """Slurm keeps no accounts here: submitit is never told that the job is gone."""
    process = start_sweep(*arguments, *LONG)
    assert_goes_on_from_its_checkpoint(process, tmp_path, kill_jobs)
