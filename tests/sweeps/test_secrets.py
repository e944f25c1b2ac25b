"""A sweep whose stores have passwords: they are in no file, no store and no print."""

import os
import subprocess
import sys

import pytest

from sft.service.child import api_key

from .conftest import PROJECT, study_of
from .test_postgresql import database  # noqa: F401 - a fixture

WORD = "open-sesame"


def shown_by(folder, *texts):
    found = [str(f) for f in folder.rglob("*") if f.is_file() and WORD.encode() in f.read_bytes()]
    return found + [text for text in texts if WORD in text]


@pytest.fixture
def command(overrides, on_service, local_service, tmp_path):
    def run(module, *arguments, **environment):
        if module == "sft":
            arguments = ("--multirun", *overrides, *on_service, *arguments)
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ
            | {"PYTHONPATH": str(PROJECT), "TINKER_API_KEY": api_key(local_service)}
            | environment,
        )

    return run


@pytest.mark.slow
def test_the_password_of_a_studys_storage_is_shown_nowhere_and_asked_of_the_environment(
    command, tmp_path
):
    whole = f"sqlite:///file:studies.db?uri=true&token={WORD}"
    options = ["tracking.uri=null", "hydra.sweeper.study_name=s", "lr=1e-3,1e-2"]
    one = command("sft", *options, f'hydra.sweeper.storage="{whole}"', "hydra.sweeper.n_trials=1")
    assert one.returncode == 0, one.stderr
    masked = "sqlite:///file:studies.db?uri=true&token=***"
    assert f"python -m sft.sweeps.report s --storage '{masked}'" in one.stdout

    without = command("sft.sweeps.report", "s", "--storage", masked)
    assert without.returncode == 2 and "OPTUNA_STORAGE" in without.stderr
    report = command("sft.sweeps.report", "s", "--storage", masked, OPTUNA_STORAGE=whole)
    assert report.returncode == 0, report.stderr
    again = command("sft", *options, f'hydra.sweeper.storage="{masked}"', OPTUNA_STORAGE=whole)
    assert again.returncode == 0, again.stderr
    outputs = [(done.stdout, done.stderr) for done in (one, without, report, again)]
    assert shown_by(tmp_path, *sum(outputs, ())) == []


@pytest.mark.slow
def test_the_trials_and_the_sweep_log_where_mlflows_variable_says(command, tmp_path):
    uri = f"sqlite:///{tmp_path / 'team.db'}?password={WORD}"
    done = command(
        "sft", "lr=1e-3,1e-2", "hydra.sweeper.study_name=s", MLFLOW_TRACKING_URI=uri,
        MLFLOW_EXPERIMENT_NAME="theirs",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say" in done.stdout

    from sft.tracking.store import open_client

    client = open_client(f"sqlite:///{tmp_path / 'team.db'}")
    experiment = client.get_experiment_by_name("theirs")
    assert len(client.search_runs([experiment.experiment_id])) == 3
    assert shown_by(tmp_path, done.stdout, done.stderr) == []
    assert len(study_of("s", tmp_path).trials) == 2


@pytest.mark.slow
def test_jobs_of_another_launcher_open_storage_and_tracking_with_what_they_inherit(
    command,
    database,  # noqa: F811
    tmp_path,
):
    """The passwords are in the command line, and in nothing that is handed to a job."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    import psycopg2

    connection = psycopg2.connect(database.replace("+psycopg2", ""))
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE runs")
    connection.close()
    runs_database = database.replace("/postgres", "/runs")
    whole, tracked = (
        url.replace("sweeps@", f"sweeps:{WORD}@") for url in (database, runs_database)
    )
    done = command(
        "sft", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2",
        "lr=1e-3,1e-2", "max_steps=2", "hydra.sweeper.study_name=s",
        f"hydra.sweeper.storage={whole}", f"tracking.uri={tracked}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    from sft.sweeps.study import storage
    from sft.tracking.store import open_client

    study, _ = storage.load_study("s", database, root=tmp_path / storage.ROOT)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    client = open_client(runs_database)
    experiment = client.get_experiment_by_name("sft")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    stored = [str(run.to_dictionary()) for run in runs]
    stored += [str(study.user_attrs), *(str(trial.user_attrs) for trial in study.trials)]
    assert shown_by(tmp_path, done.stdout, done.stderr, *stored) == []
