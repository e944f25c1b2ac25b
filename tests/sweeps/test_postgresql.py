"""Two processes work on one study in a real PostgreSQL."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from glob import glob
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sft.sweeps.space import parse
from sft.sweeps.study import storage, wider

from .conftest import rows_of

TRIALS = 6


def find(program: str) -> str | None:
    places = sorted(glob(f"/usr/lib/postgresql/*/bin/{program}"))
    return shutil.which(program) or (places[-1] if places else None)


@pytest.fixture
def database(tmp_path_factory):
    """The URL of a PostgreSQL database that this test started."""
    initdb, server = find("initdb"), find("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    user: dict = {}
    folder = Path(tmp_path_factory.mktemp("postgresql"))
    if getpass.getuser() == "root":  # which PostgreSQL refuses to run as
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("running as root, and there is no user postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        for parent in folder.parents:
            if parent.owner() == "root" and not parent.stat().st_mode & 0o001:
                os.chmod(parent, parent.stat().st_mode | 0o011)
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", data, "-A", "trust", "-U", "sweeps", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder, **user,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(folder.parent / "postgresql.log", "w")
    process = subprocess.Popen(
        [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"],
        stdout=log, stderr=log, cwd=folder, **user,
    )  # fmt: skip
    try:
        _wait_for(port, process)
        yield f"postgresql+psycopg2://sweeps@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # ends at once, whoever is connected
        process.wait()
        log.close()


def _wait_for(port: int, process: subprocess.Popen) -> None:
    import psycopg2

    while process.poll() is None:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="sweeps", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            time.sleep(0.1)
    pytest.fail("PostgreSQL did not start")


@pytest.mark.slow
def test_two_processes_share_a_study_and_run_each_trial_once(database, start_sweep, tmp_path):
    arguments = (
        "lr=tag(log,interval(1e-4,1e-2))", f"hydra.sweeper.n_trials={TRIALS}", "max_steps=100",
        "epochs=20", "eval_every=50", "save_every=0", "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.study_name=s", "tracking.uri=null", f"hydra.sweeper.storage={database}",
    )  # fmt: skip  # as many steps as last until the other process has begun
    processes = [start_sweep(*arguments) for _ in range(2)]
    assert [process.wait(240) for process in processes] == [0, 0], (
        tmp_path / "sweep.log"
    ).read_text()

    study, folder = storage.load_study("s", database, root=tmp_path / storage.ROOT)
    trials = [t for t in study.trials if "surplus" not in t.user_attrs]
    assert [t.state for t in trials] == [TrialState.COMPLETE] * TRIALS
    assert len({t.user_attrs["worker"] for t in trials}) == 2
    for trial in trials:
        rows = rows_of("s", trial.number, tmp_path)
        assert rows[0]["lr"] == trial.params["lr"]
        assert rows[-1]["eval/nll"] == trial.value


def test_a_study_in_postgresql_takes_a_wider_space(database, tmp_path):
    def opened():
        return storage.open_study("s", storage.open_storage(database, tmp_path), ["minimize"])

    before, after = parse(["lr=1e-4,1e-3"]), parse(["lr=1e-4,1e-3,3e-3"])
    for space in (before, after):
        facts = {"metric": ["eval/nll"], "space": space.describe()}
        if not wider.widen(opened(), facts, space.distributions, tmp_path):
            storage.remember(opened(), facts)
        study = opened()
        study.enqueue_trial({"lr": space.distributions["lr"].choices[-1]})
        study.tell(study.ask(space.distributions), 0.5)
    assert [t.params["lr"] for t in opened().trials] == [1e-3, 3e-3]
    assert {tuple(t.distributions) for t in opened().trials} == {("lr",)}
    assert all(t.distributions == after.distributions for t in opened().trials)
