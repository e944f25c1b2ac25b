"""A tracker beside MLflow: it follows single runs and the trials of sweeps."""

import json
import threading
from pathlib import Path

import pytest

from sft.__main__ import main
from sft.config.compose import compose
from sft.config.saved import from_saved, to_saved
from sft.errors import BadInput
from sft.files import json_lines, read_yaml
from sft.hooks import BaseHook
from sft.past.trust import check_untrusted
from sft.record import metrics
from sft.tracking import trackers
from sft.tracking.hook import PARENT_RUN, MlflowHook
from tests.sweeps.conftest import chats, on_service, overrides, sweep  # noqa: F401 - fixtures


class JsonlHook(BaseHook):
    """Keeps what it is told of one run."""

    def __init__(self, tracker, prefix, tags):
        self.tracker, self.prefix, self.tags = tracker, prefix, dict(tags)

    def on_start(self, run):
        self.name = run.name

    def on_metrics(self, step, metrics, timestamp_ms):
        self.tracker.add(run=self.prefix + self.name, step=step, nll=metrics.get("eval/nll"))

    def on_end(self, result):
        self.tracker.add(run=self.prefix + self.name, end=result.status, tags=self.tags)


class Jsonl:
    """Writes lines of JSON when it is flushed."""

    def __init__(self, file):
        self.file, self.lines, self.lock = file, [], threading.Lock()

    def hook(self, settings, tags):
        options = settings.tracking.also.get("jsonl")
        return None if options is None else JsonlHook(self, options.get("prefix", ""), tags)

    def add(self, **entry):
        with self.lock:
            self.lines.append(json.dumps(entry) + "\n")

    def flush(self, timeout):
        with self.lock, self.file.open("a") as file:
            file.writelines(self.lines)
            self.lines.clear()
        return ["jsonl lacks nothing"] if self.file.exists() else []


@pytest.fixture
def file(tmp_path, monkeypatch):
    file = tmp_path / "tracked.jsonl"
    monkeypatch.setitem(trackers.TRACKERS, "jsonl", Jsonl(file))
    return file


@pytest.fixture
def run(monkeypatch, tmp_path, overrides, on_service):  # noqa: F811
    """Runs `python -m sft …` in this process, in a folder of its own; the exit code."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments):
        argv = [*overrides, *on_service, "run_dir=run", "run_name=first", *arguments]
        monkeypatch.setattr("sys.argv", ["sft", *argv])
        return main(argv)

    return start


def test_a_run_is_told_to_each_tracker_that_its_config_names(run, file, capsys):
    assert run("tracking=none", "tracking.also.jsonl.prefix=my-") == 0
    told = json_lines(file)
    rows = metrics.read(Path("run/metrics.jsonl"))
    assert {entry["step"] for entry in told if "step" in entry} == {0, 1, 2, 3, 4}
    assert [e["nll"] for e in told if e.get("nll")] == [r["eval/nll"] for r in rows[::2]]
    assert told[-1] == {"run": "my-first", "end": "FINISHED", "tags": {}}
    said = capsys.readouterr()
    assert "sft: jsonl lacks nothing" in said.err and "tracking     jsonl" in said.out
    assert read_yaml(Path("run/config.yaml"))["tracking"]["also"] == {"jsonl": {"prefix": "my-"}}


def test_a_tracker_stands_beside_mlflow(run, file, tmp_path):
    from sft.tracking.store import open_client

    # By its whole path: what other tests' runs have not sent yet goes by the present folder.
    store = f"sqlite:///{tmp_path / 'own.db'}"
    assert run("tracking.also={jsonl: {}}", f"tracking.uri={store}", "max_steps=1") == 0
    assert json_lines(file)[-1]["end"] == "FINISHED"
    client = open_client(store)
    [of_mlflow] = client.search_runs([client.get_experiment_by_name("sft").experiment_id])
    assert of_mlflow.info.run_name == "first" and of_mlflow.info.status == "FINISHED"


def test_a_run_that_does_not_name_it_is_not_told(run, file):
    assert run("tracking=none", "max_steps=1") == 0
    assert json_lines(file) == []


@pytest.mark.slow
def test_each_trial_of_a_sweep_is_told_with_its_number_and_the_sweep_flushes(sweep, file):  # noqa: F811
    arguments = ("lr=1e-3,1e-2", "max_steps=2", "hydra.sweeper.study_name=s")
    assert sweep(*arguments, "tracking.also={jsonl: {}}") == 0
    ends = [entry for entry in json_lines(file) if "end" in entry]
    assert sorted(end["tags"]["sweep.trial"] for end in ends) == ["0", "1"]
    assert {end["tags"]["sweep.study"] for end in ends} == {"s"}
    assert {end["end"] for end in ends} == {"FINISHED"}


def test_a_trials_sweep_is_a_tag_of_mlflows_to_mlflow_alone(file, tmp_path):
    settings = compose(["tracking.also={jsonl: {}}", f"tracking.uri=sqlite:///{tmp_path}/own.db"])
    hooks = trackers.hooks(settings, {"sweep.trial": "3", PARENT_RUN: "abc"})
    tags = {type(hook): hook.tags for hook in hooks}
    assert tags == {
        MlflowHook: {"sweep.trial": "3", "mlflow.parentRunId": "abc"},
        JsonlHook: {"sweep.trial": "3", "sweep.parent_run": "abc"},
    }


@pytest.mark.parametrize(
    "override, said",
    [
        ("tracking.also={josnl: {}}", r"tracking\.also\.josnl.*did you mean 'jsonl'"),
        ("tracking.also={mlflow: {}}", r"tracking\.also\.mlflow: there is no such tracker beside"),
        ("tracking.also={jsonl: on}", r"tracking\.also\.jsonl: 'on' is not a group of keys"),
    ],
)
def test_a_tracker_that_is_not_there_stops_a_run_before_it_begins(file, override, said):
    with pytest.raises(BadInput, match=said):
        trackers.hooks(compose([override]), {})


def test_a_sweep_says_so_before_its_first_trial(sweep, file, capsys):  # noqa: F811
    assert sweep("lr=1e-3,1e-2", "tracking.also={josnl: {}}") == 2
    assert "tracking.also.josnl" in capsys.readouterr().err and not Path("outputs").exists()


def test_a_config_from_elsewhere_may_not_send_the_run_to_a_tracker(file):
    saved = to_saved(compose(["tracking.also.jsonl.prefix=theirs"]))
    assert from_saved(saved, "theirs").tracking.also == {"jsonl": {"prefix": "theirs"}}
    with pytest.raises(BadInput, match="tracking.also would send the run to"):
        check_untrusted(saved, "theirs")
