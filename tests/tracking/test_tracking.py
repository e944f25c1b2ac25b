"""What a run's MLflow run holds, read back from a real SQLite store."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

from sft import tracking
from sft.past.find import find
from sft.record import checkpoints, system_metrics
from tests.tracking.tracked_run import SETTINGS, TrackedRun, only_run


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
