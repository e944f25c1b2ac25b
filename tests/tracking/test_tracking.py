"""What a run's MLflow run holds, read back from a real SQLite store."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from sft import tracking
from sft.errors import BadInput
from sft.past.find import find
from sft.record import checkpoints, system_metrics
from sft.tracking.store import check_uri, open_client
from tests.tracking.tracked_run import SETTINGS, TrackedRun, fresh_store


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(template, tmp_path):
    return fresh_store(template, tmp_path / "store")


def only_run(uri, experiment="tests"):
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    assert len(runs) == 1
    return client, runs[0]


def test_a_run_is_in_mlflow_with_its_settings_metrics_tags_and_files(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.step(0, train_nll=2.0, eval_nll=3.0)
    run.step(1, train_nll=1.0)
    run.end()
    assert tracking.flush(30) == []
    client, found = only_run(uri)
    assert found.info.status == "FINISHED" and found.info.run_name == "first"
    assert found.data.params == {
        "lr": "0.0001",
        "seed": "0",
        "max_steps": "null",
        "model.name": "tiny",
        "lora.rank": "8",
        "lora.train_attn": "true",
        "dataset.kind": "faq",
        "dataset.args": "{}",
    }
    history = client.get_metric_history(found.info.run_id, "train/nll")
    assert [(m.step, m.value) for m in history] == [(0, 2.0), (1, 1.0)]
    assert [m.timestamp for m in history] == [row["timestamp"] for row in run.metrics.rows.values()]
    tags = found.data.tags
    assert tags["mlflow.source.git.commit"] == "a" * 40
    assert tags["sft.run_dir"] == str(tmp_path / "run") and tags["sft.status"] == "FINISHED"
    assert f"python -m sft.reproduce {found.info.run_id}" in tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {"config.yaml", "run.json", "overrides.txt", "uncommitted.diff"}
    [data] = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("faq", "0123456789abcdef")


def test_artifacts_are_found_from_any_working_directory(uri, tmp_path, monkeypatch):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.end()
    tracking.flush(30)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    client, found = only_run(uri)
    assert Path(client.download_artifacts(found.info.run_id, "config.yaml")).read_text()
    assert found.info.artifact_uri.startswith((tmp_path / "store" / "mlartifacts").as_uri())


def test_a_value_longer_than_mlflow_takes_is_kept_whole_in_parts(uri, tmp_path):
    long = "".join(f"<{i}>" for i in range(4_000))
    run = TrackedRun(tmp_path / "run", uri, settings=SETTINGS | {"prompt": long}).start()
    run.end()
    tracking.flush(30)
    _, found = only_run(uri)
    parts = sorted(
        (int(k.removeprefix("prompt.part")), v)
        for k, v in found.data.params.items()
        if k.startswith("prompt.part")
    )
    assert "".join(part for _, part in parts) == long
    assert str(len(long)) in found.data.params["prompt"]


def test_hundreds_of_settings_and_odd_names_all_arrive(uri, tmp_path):
    many = {f"key{i}": i for i in range(230)} | {"a@b": 1, "a#b": 2, "..": 3, "x" * 300: 4}
    TrackedRun(tmp_path / "run", uri, settings=many).start().end()
    tracking.flush(30)
    _, found = only_run(uri)
    assert len(found.data.params) == 234 and found.data.params["key229"] == "229"


def test_each_checkpoint_is_an_external_model_with_paths_evaluation_and_data(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start(held_out_digest="held")
    run.step(0, train_nll=2.0)
    run.step(2, eval_nll=1.5)
    first = run.checkpoint(2)
    run.step(4, eval_nll=1.7)
    run.checkpoint(4, "final", {"eval/nll": 1.7})
    first.evaluation = {"eval/nll": 1.5}
    run.checkpoints.update()
    run.hook.on_checkpoint(first)
    run.end()
    tracking.flush(30)
    client, found = only_run(uri)
    outputs = {o.model_id: o.step for o in found.outputs.model_outputs}
    assert sorted(outputs.values()) == [2, 4]
    written = checkpoints.read(tmp_path / "run" / "checkpoints.jsonl")
    assert {record.mlflow_model_id for record in written} == set(outputs)
    model = client.get_logged_model(written[0].mlflow_model_id)
    assert outputs[model.model_id] == 2 and model.status == "READY"
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert model.tags["sft.state_path"] == "tinker://run:train:0/weights/000002"
    assert [(m.key, m.value, m.step, m.dataset_digest) for m in model.metrics] == [
        ("eval/nll", 1.5, 2, "held")
    ]
    tags = found.data.tags
    assert tags["sft.best_checkpoint"] == "tinker://run:train:0/sampler_weights/000002"
    assert tags["sft.final_checkpoint"] == "tinker://run:train:0/sampler_weights/final"
    history = client.get_metric_history(found.info.run_id, "eval/nll")
    assert [(m.step, m.value) for m in history] == [(2, 1.5), (4, 1.7)]


MEASURED = {
    "eval/nll": ("faq (held out)", "held"),
    "eval/nll_stderr": ("faq (held out)", "held"),
    "eval/bpb": ("faq (held out)", "held"),
    "eval/exact_match": ("faq (held out)", "held"),
    "eval/exam/nll": ("exam", "set"),
    "eval/exam/nll_stderr": ("exam", "set"),
    "eval/judge/accuracy": (None, None),
    "eval/score": (None, None),
    "eval/prompts/exact_match": (None, None),
}
"""What a metric is measured on: name and digest."""


def digests_of_data(directory):
    """The digests that `train.main` writes into run.json beside what hooks are told."""
    digests = {"held_out_digest": "held", "eval_set_digests": {"exam": "set", "odd": None}}
    facts = json.loads((directory / "run.json").read_text()) | digests
    (directory / "run.json").write_text(json.dumps(facts))
    return digests


def test_what_is_measured_is_tied_to_the_data_it_was_measured_on(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri)
    run.start(**digests_of_data(tmp_path / "run"), held_out={"conversations": 4})
    run.checkpoint(2, evaluation=dict.fromkeys(MEASURED, 1.0))
    run.end()
    assert tracking.flush(30) == []
    client, found = only_run(uri)
    [model] = client.search_logged_models([found.info.experiment_id])
    assert {m.key: (m.dataset_name, m.dataset_digest) for m in model.metrics} == MEASURED
    inputs = {
        (one.tags[0].value, one.dataset.name, one.dataset.digest): json.loads(one.dataset.profile)
        for one in found.inputs.dataset_inputs
    }
    assert inputs == {
        ("training", "faq", "0123456789abcdef"): {"tokens": 100},
        ("eval", "faq (held out)", "held"): {"conversations": 4},
        ("eval", "exam", "set"): {},
    }


def test_it_is_tied_to_its_data_also_if_mlflow_is_told_by_a_later_process(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri)
    code = (
        "import os, pathlib\n"
        "from tests.tracking.test_tracking import MEASURED, digests_of_data\n"
        "from tests.tracking.tracked_run import TrackedRun\n"
        f"folder = pathlib.Path({str(run.directory)!r})\n"
        "run = TrackedRun(folder, 'http://127.0.0.1:9')\n"
        "run.start(**digests_of_data(folder), held_out={'conversations': 4})\n"
        "run.checkpoint(2, evaluation=dict.fromkeys(MEASURED, 1.0)); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    assert tracking.sync(run.directory, uri) and tracking.flush(30) == []
    client, found = only_run(uri)
    [model] = client.search_logged_models([found.info.experiment_id])
    assert {m.key: (m.dataset_name, m.dataset_digest) for m in model.metrics} == MEASURED
    names = {
        one.dataset.name: json.loads(one.dataset.profile) for one in found.inputs.dataset_inputs
    }
    assert names["faq (held out)"] == {"conversations": 4} and len(names) == 3


def test_a_checkpoint_that_was_replaced_leaves_the_models(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    old = run.checkpoint(2, "rolling")
    tracking.flush(30)
    run.checkpoints.remove(old)
    run.checkpoint(4, "rolling")
    run.end()
    tracking.flush(30)
    client, found = only_run(uri)
    models = client.search_logged_models([found.info.experiment_id])
    assert [model.tags["sft.checkpoint"] for model in models] == ["000004"]


def test_tables_are_artifacts_the_ui_shows(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.hook.on_table("answers", 0, [{"prompt": "p", "answer": "a"}])
    run.hook.on_table("answers", 4, [{"prompt": "p", "answer": "b"}])
    run.end()
    tracking.flush(30)
    client, found = only_run(uri)
    table = json.loads(
        Path(client.download_artifacts(found.info.run_id, "answers.json")).read_text()
    )
    assert table == {
        "columns": ["prompt", "answer", "step"],
        "data": [["p", "b", 4], ["p", "a", 0]],
    }
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "answers.json", "type": "table"}
    ]


def test_system_metrics_are_in_mlflow_as_in_the_run_directory_however_often_sent(
    uri, tmp_path, monkeypatch
):
    monkeypatch.setattr(system_metrics, "EVERY_SECONDS", 0.05)
    run = TrackedRun(tmp_path / "run", uri).start()
    run.step(0, train_nll=1.0)
    file = tmp_path / "run" / system_metrics.FILE
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.end()
    assert tracking.flush(30) == []
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    name = "system/cpu_utilization_percentage"
    expected = [(row["step"], row["timestamp"], row[name]) for row in rows]

    def in_mlflow():
        client, found = only_run(uri)
        history = client.get_metric_history(found.info.run_id, name)
        return sorted((m.step, m.timestamp, m.value) for m in history)

    assert in_mlflow() == expected
    state = tmp_path / "run" / "mlflow.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"ended": False}))
    assert tracking.sync(run.directory) and tracking.flush(30) == []
    assert in_mlflow() == expected
    of_training = replace(find(str(run.directory)), directory=None)
    assert of_training.rows() == [{"step": 0, "timestamp": ANY, "train/nll": 1.0}]


def test_system_metrics_can_be_left_out(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(system_metrics, "EVERY_SECONDS", 0.01)
    settings = SETTINGS | {"tracking": {"system_metrics": False}}
    run = TrackedRun(tmp_path / "run", uri, settings=settings).start()
    time.sleep(0.2)
    run.end()
    assert not (tmp_path / "run" / system_metrics.FILE).exists()


@pytest.mark.parametrize(
    "status, expected", [("FAILED", "FAILED"), ("KILLED", "KILLED"), ("PRUNED", "KILLED")]
)
def test_every_end_has_its_status_and_error(uri, tmp_path, status, expected):
    TrackedRun(tmp_path / "run", uri).start().end(status, "the reason")
    tracking.flush(30)
    _, found = only_run(uri)
    assert found.info.status == expected and found.info.end_time
    assert found.data.tags["sft.status"] == status
    assert found.data.tags["sft.error"] == "the reason"


def test_runs_side_by_side_and_under_a_parent_are_not_mixed_up(uri, tmp_path):
    parent = TrackedRun(tmp_path / "parent", uri, name="parent").start()
    tracking.flush(30)
    runs = [
        TrackedRun(
            tmp_path / f"{i}",
            uri,
            f"run{i}",
            parent_run_id=parent.hook.run_id,
            tags={"trial": f"{i}"},
        ).start()
        for i in range(4)
    ]
    for step in range(5):
        for i, run in enumerate(runs):
            run.step(step, train_nll=100.0 * i + step)
    for run in [*runs, parent]:
        run.end()
    assert tracking.flush(60) == []
    client = open_client(uri)
    for i, run in enumerate(runs):
        found = client.get_run(run.hook.run_id)
        assert found.data.tags["mlflow.parentRunId"] == parent.hook.run_id
        assert found.data.tags["trial"] == str(i)
        history = client.get_metric_history(run.hook.run_id, "train/nll")
        assert [m.value for m in history] == [100.0 * i + step for step in range(5)]


def test_infinite_and_missing_values_do_not_stop_the_rest(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.step(0, train_nll=math.nan, lr=math.inf)
    run.step(1, train_nll=1.0)
    run.end()
    assert tracking.flush(30) == []
    client, found = only_run(uri)
    history = client.get_metric_history(found.info.run_id, "train/nll")
    assert math.isnan(history[0].value) and history[1].value == 1.0


def test_a_resumed_run_goes_on_in_its_mlflow_run_and_its_last_values_count(uri, tmp_path):
    dead = TrackedRun(tmp_path / "run", uri).start()
    for step in range(4):
        dead.step(step, train_nll=10.0 + step)
    tracking.flush(30)
    run_id = dead.hook.run_id
    dead.metrics.truncate(2)
    time.sleep(0.002)
    resumed = TrackedRun(tmp_path / "run", uri).start(start_step=2)
    for step in range(2, 4):
        resumed.step(step, train_nll=20.0 + step)
    resumed.end()
    tracking.flush(30)
    client, found = only_run(uri)
    assert found.info.run_id == run_id and found.info.status == "FINISHED"
    assert found.data.tags["sft.resumed_at"] == "2"
    assert "cannot delete points" in found.data.tags["mlflow.note.content"]
    assert found.data.metrics["train/nll"] == 23.0
    history = client.get_metric_history(run_id, "train/nll")
    assert sorted((m.step, m.value) for m in history) == [
        (0, 10.0),
        (1, 11.0),
        (2, 12.0),
        (2, 22.0),
        (3, 13.0),
        (3, 23.0),
    ]


def test_how_an_earlier_life_ended_does_not_outlast_the_one_that_goes_on(uri, tmp_path):
    TrackedRun(tmp_path / "run", uri, tags={"sft.verdict": "DIFFERS"}).start().end(
        "KILLED", "the service went away", reason="interrupted by SIGINT"
    )
    tracking.flush(30)
    _, found = only_run(uri)
    assert {"sft.error", "sft.reason", "sft.verdict"} <= found.data.tags.keys()
    TrackedRun(tmp_path / "run", uri).start(start_step=2).end()
    tracking.flush(30)
    _, found = only_run(uri)
    assert found.info.status == found.data.tags["sft.status"] == "FINISHED"
    assert not {"sft.error", "sft.reason", "sft.verdict"} & found.data.tags.keys()


def test_a_verdict_stays_when_an_ended_runs_rest_is_sent(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri).start()
    run.end()
    tracking.flush(30)
    run.record(status="FINISHED", verdict="agrees: all")
    open_client(uri).set_tag(run.hook.run_id, "sft.verdict", "agrees: all")
    file = tmp_path / "run" / "mlflow.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ended": False}))
    assert tracking.sync(run.directory) and tracking.flush(30) == []
    _, found = only_run(uri)
    assert found.data.tags["sft.verdict"] == "agrees: all"


def test_what_a_dead_process_did_not_send_is_sent_by_the_next_command(uri, tmp_path):
    run = TrackedRun(tmp_path / "run", uri)
    code = (
        "import os, sys, pathlib; from tests.tracking.tracked_run import TrackedRun\n"
        f"run = TrackedRun(pathlib.Path({str(run.directory)!r}), {uri!r}).start()\n"
        "run.step(0, train_nll=2.0); run.step(1, train_nll=1.0); run.checkpoint(1, 'final')\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    run.record(status="KILLED")
    assert tracking.sync(run.directory)
    assert tracking.flush(30) == []
    client, found = only_run(uri)
    assert found.info.status == "KILLED"
    assert len(client.get_metric_history(found.info.run_id, "train/nll")) == 2
    assert len(found.outputs.model_outputs) == 1
    assert not tracking.sync(run.directory)


def test_a_locked_database_is_waited_for_without_holding_up_the_run(uri, tmp_path, caplog):
    import sqlite3

    run = TrackedRun(tmp_path / "run", uri).start()
    tracking.flush(30)
    lock = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    run.step(0, train_nll=1.0)
    run.end()
    assert run.hook._mirror.pending
    lock.execute("ROLLBACK")
    assert tracking.flush(60) == []
    _, found = only_run(uri)
    assert found.data.metrics["train/nll"] == 1.0 and found.info.status == "FINISHED"


def test_several_processes_open_a_fresh_store_together(tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    code = (
        "import sys, pathlib; from tests.tracking.tracked_run import TrackedRun\n"
        "from sft import tracking\n"
        f"run = TrackedRun(pathlib.Path({str(tmp_path)!r}) / sys.argv[1], {uri!r}, sys.argv[1])\n"
        "run.start().step(0, train_nll=1.0); run.end(); sys.exit(len(tracking.flush(60)))"
    )
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"run{i}"], cwd=root) for i in range(3)
    ]
    assert [process.wait(90) for process in processes] == [0, 0, 0]
    client = open_client(uri)
    experiment = client.get_experiment_by_name("tests")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == {"run0", "run1", "run2"}
    assert sorted(file.name for file in (tmp_path / "new").glob("mlflow.db*")) == [
        "mlflow.db",
        "mlflow.db.lock",
    ]


@pytest.mark.parametrize(
    "uri, said",
    [
        ("sqllite:///mlflow.db", "did you mean 'sqlite'"),
        ("mlruns", "plain folders"),
        ("file:///tmp/mlruns", "plain folders"),
        ("sqlite://mlflow.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:////dev/null/mlflow.db", "not a writable folder"),
        ("http://", "names no host"),
        ("http://host:port", "not a URL"),
        ("http:host", "names no host"),
        ("http://a host:5000", "space"),
        ("postgresql+nodriver://host/db", "pip install nodriver"),
        ("ftp://host", "unknown scheme"),
    ],
)
def test_a_uri_that_can_never_work_is_bad_input(uri, said):
    with pytest.raises(BadInput, match="tracking.uri") as caught:
        tracking.check_uri(uri)
    assert said in str(caught.value)


def test_a_file_that_is_no_database_is_bad_input_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("these are my notes, not a database")
    with pytest.raises(BadInput, match="not an SQLite database"):
        tracking.MlflowHook(f"sqlite:///{tmp_path / 'notes.txt'}", "tests")
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "http://127.0.0.1:5000", "https://host/path", "databricks"]
)
def test_a_uri_that_may_work_is_not_contacted(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracking.check_uri(uri)
    assert os.listdir(tmp_path) == []


def test_passwords_in_a_uri_are_not_written_down(tmp_path):
    run = TrackedRun(tmp_path / "run", "http://me:hunter2@127.0.0.1:9").start()
    tracking.flush(10)
    assert "hunter2" not in (tmp_path / "run" / "mlflow.json").read_text()
    run.hook._mirror.closed = True


@pytest.mark.parametrize("uri", ["mysql://me@host/db", "postgresql+nosuch://me@host/db"])
def test_a_database_whose_driver_is_not_there_is_bad_input_before_the_start(uri):
    with pytest.raises(BadInput, match="pip install (mysqlclient|nosuch)"):
        check_uri(uri)
