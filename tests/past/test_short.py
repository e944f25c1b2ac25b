"""A run is found by `last`, and by the beginning of its name."""

import json

import pytest

from sft.errors import BadInput
from sft.past.find import find, run_directory

NAMES = ("12-00-00-lr1e-4-faq", "12-30-00-lr3e-4-faq", "13-00-00-mine")


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Three runs, of which the second one began last."""
    monkeypatch.chdir(tmp_path)
    for name, started in zip(NAMES, (10.0, 30.0, 20.0), strict=True):
        folder = tmp_path / "outputs" / "2026-01-01" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("lr: 0.1\n")
        (folder / "run.json").write_text(json.dumps({"started": started, "status": "FINISHED"}))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("last", NAMES[1]),
        ("mine", NAMES[2]),
        ("lr1", NAMES[0]),
        ("12-30", NAMES[1]),
        (NAMES[0], NAMES[0]),
    ],
)
def test_a_short_word_finds_the_run(word, name):
    assert run_directory(word).name == name


def test_a_beginning_of_several_names_them_newest_first():
    with pytest.raises(BadInput) as error:
        find("lr")
    lines = str(error.value).splitlines()
    assert lines[0] == "lr: 2 runs begin so; name one by its path:"
    assert [line.rpartition("/")[2] for line in lines[1:]] == [NAMES[1], NAMES[0]]


def test_a_trial_that_is_several_runs_is_asked_for_by_its_repeat(tmp_path):
    for repeat in (0, 1):
        folder = tmp_path / "outputs" / "sweeps" / "study" / f"7-{repeat}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("lr: 0.1\n")
    with pytest.raises(BadInput, match="study/7: .* name one: study/7-0, study/7-1"):
        find("study/7")
    assert run_directory("study/7-1").name == "7-1"


def test_a_trial_that_is_several_runs_in_mlflow_alone_is_asked_for_by_its_repeat(tmp_path):
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(store)
    experiment = client.create_experiment("sft")
    for repeat in ("0", "1"):
        tags = {"sweep.study": "study", "sweep.trial": "7", "sweep.repeat": repeat}
        client.create_run(experiment, tags=tags)
    with pytest.raises(BadInput, match="name one: study/7-0, study/7-1"):
        find("study/7", store)
    assert client.get_run(find("study/7-1", store).run_id).data.tags["sweep.repeat"] == "1"


@pytest.mark.parametrize("word", ["yours", "outputs/yours", ""])
def test_no_run_is_made_up(word):
    with pytest.raises(BadInput, match="no such run|no run directory"):
        find(word)


def test_last_without_a_run_says_what_would_be_one(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(BadInput, match="last: there is no such run"):
        find("last")
