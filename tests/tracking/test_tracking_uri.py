"""Which store is used: what the config says, else MLflow's own variables, else mlflow.db here."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from sft.config.compose import compose
from sft.config.schema import TrackingSettings
from sft.past.find import find
from tests.finished_run import finished_run

DEFAULT = TrackingSettings()


@pytest.mark.parametrize(
    ("environment", "overrides", "tracking"),
    [
        ({}, [], DEFAULT),
        ({"MLFLOW_TRACKING_URI": "http://h:5"}, [], TrackingSettings("http://h:5", "sft")),
        ({"MLFLOW_TRACKING_URI": "", "MLFLOW_EXPERIMENT_NAME": ""}, [], DEFAULT),
        ({"MLFLOW_EXPERIMENT_NAME": "mine"}, [], TrackingSettings(DEFAULT.uri, "mine")),
        ({"MLFLOW_TRACKING_URI": "http://h:5"}, [f"tracking.uri={DEFAULT.uri}"], DEFAULT),
        (
            {"MLFLOW_TRACKING_URI": "http://h:5", "MLFLOW_EXPERIMENT_NAME": "mine"},
            ["tracking.experiment=sft"],
            TrackingSettings("http://h:5", "sft"),
        ),
        (
            {"MLFLOW_TRACKING_URI": "http://h:5"},
            ["tracking.uri=null"],
            TrackingSettings(None, "sft"),
        ),
        ({"MLFLOW_TRACKING_URI": "http://h:5"}, ["tracking=none"], TrackingSettings(None, "sft")),
    ],
)
def test_mlflows_variables_count_where_the_config_says_nothing(
    environment, overrides, tracking, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert compose(overrides).tracking == tracking


def test_the_hook_of_python_takes_mlflows_variables_too(monkeypatch):
    from sft.tracking.hook import MlflowHook

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert (MlflowHook().uri, MlflowHook().experiment) == ("http://h:5", "mine")
    named = MlflowHook("sqlite:///mlflow.db", "sft")
    assert (named.uri, named.experiment) == ("sqlite:///mlflow.db", "sft")


def test_cfg_job_shows_the_store_that_would_be_used_without_its_password(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sft", "--cfg", "job"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": "http://me:secret@h:5"},
    )
    shown = yaml.safe_load(done.stdout)["tracking"]
    assert (shown["uri"], shown["experiment"]) == ("http://me:***@h:5", "sft")


@pytest.mark.slow
def test_a_run_logs_where_the_variable_says_and_its_reproduction_where_the_run_says(
    tmp_path, tiny_model, monkeypatch
):
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'team.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    directory = finished_run(tmp_path, tiny_model, "max_steps=2")
    saved = yaml.safe_load((directory / "config.yaml").read_text())
    assert (saved["tracking"]["uri"], saved["tracking"]["experiment"]) == (uri, "theirs")
    run_id = find(str(directory)).run_id
    assert find(run_id).directory == directory  # the same default, looked up in that store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///another.db")
    done = subprocess.run(
        [sys.executable, "-m", "sft.reproduce", str(directory)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (state,) = tmp_path.glob("outputs/*/*/mlflow.json")
    assert json.loads(state.read_text())["uri"] == uri
    assert not (tmp_path / "another.db").exists() and not (tmp_path / "mlflow.db").exists()


def test_the_banner_says_which_variable_named_the_store():
    from sft.display.terminal import describe_tracking

    settings = compose([])
    assert describe_tracking(settings, {}) == "sqlite:///mlflow.db, experiment sft"
    assert (
        describe_tracking(settings, {"tracking.uri": "MLFLOW_TRACKING_URI"})
        == "sqlite:///mlflow.db, experiment sft, as MLFLOW_TRACKING_URI says"
    )
