"""Checkpoints as MLflow's logged models, and tables as its table artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.files import json_lines
from sft.record.checkpoints import CheckpointRecord, best_of, read
from sft.record.examples import FOLDER as EXAMPLES
from sft.record.metrics import read as read_metrics
from sft.tracking import inputs, values

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sft.tracking.tracked_run import TrackedRun

MODEL_PARAMETERS = ("model.name", "lr", "lora.rank", "batch_size", "dataset.kind", "dataset.path")
"""Settings that the list of models shows as columns."""


def send_checkpoints(run: TrackedRun, client: MlflowClient) -> dict[str, str]:
    """Make MLflow's models those of checkpoints.jsonl; returns the run's tags that name them.

    A model is external: its weights stay on the Tinker service, its tags hold the `tinker://`
    paths. One whose checkpoint was replaced or deleted goes.
    """
    file = run.directory / "checkpoints.jsonl"
    records = read(file) if file.exists() else []
    models = run.state.setdefault("models", {})
    for record in records:
        known = models.get(record.name)
        if known is None or known["state_path"] != record.state_path:
            known = {"id": _create(run, client, record), "state_path": record.state_path}
            models[record.name] = known
            run.save()
        if record.evaluation and known.get("evaluation") != record.evaluation:
            _send_evaluation(run, client, known["id"], record)
            known["evaluation"] = record.evaluation
            run.save()
        if record.name in run.records:
            run.records[record.name].mlflow_model_id = known["id"]
    for name in models.keys() - {record.name for record in records}:
        client.delete_logged_model(models[name]["id"])
        del models[name]
        run.save()
    return _tags(run, records)


def _tags(run: TrackedRun, records: list[CheckpointRecord]) -> dict[str, str]:
    """Where the last and the best checkpoint are."""
    tags = {}
    chosen = best_of(records, run.settings)
    for word, record in (("last", records[-1] if records else None), ("best", chosen)):
        if record is not None:
            tags[f"sft.{word}_checkpoint"] = record.sampler_path
            tags[f"sft.{word}_state"] = record.state_path
            tags[f"sft.{word}_step"] = str(record.step)
    if records and records[-1].final:
        tags["sft.final_checkpoint"] = records[-1].sampler_path
    return tags


def _create(run: TrackedRun, client: MlflowClient, record: CheckpointRecord) -> str:
    """The id of the model for `record`: an earlier attempt's, if its answer was lost."""
    from mlflow.entities import LoggedModelOutput

    experiment_id = run.state["experiment_id"]
    there = client.get_run(run.run_id)
    found = client.search_logged_models(
        [experiment_id],
        filter_string=(
            f"source_run_id = '{run.run_id}' AND tags.`sft.state_path` = '{record.state_path}'"
        ),
        max_results=1,
    )
    if found:
        model = found[0]
    else:
        settings = dict(values.flatten(run.settings))
        shown = {key: settings[key] for key in MODEL_PARAMETERS if settings.get(key) is not None}
        model = client.create_logged_model(
            experiment_id,
            name=values.model_name(f"{run.name or run.directory.name}-{record.name}"),
            source_run_id=run.run_id,
            model_type="LoRA adapter",
            tags={
                "mlflow.model.isExternal": "true",
                "sft.checkpoint": record.name,
                "sft.kind": record.kind,
                "sft.state_path": record.state_path,
                "sft.sampler_path": record.sampler_path,
                "sft.epoch": str(record.epoch),
                "sft.tokens": str(record.tokens),
            },
            params={key: values.text(value) for key, value in shown.items()},
        )
    client.finalize_logged_model(model.model_id, "READY")
    if model.model_id not in {output.model_id for output in there.outputs.model_outputs}:
        client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, record.step)])
    return model.model_id


def _send_evaluation(
    run: TrackedRun, client: MlflowClient, model_id: str, record: CheckpointRecord
) -> None:
    """The record's metrics, each tied to the model and to the held-out data it was measured on.

    MLflow adds them to the run's metrics, too; under the timestamp that metrics.jsonl has for
    the step they are the same points and change nothing.
    """
    from mlflow.entities import Metric

    rows = {row["step"]: row for row in read_metrics(run.directory / "metrics.jsonl")}
    timestamp = rows.get(record.step, {}).get("timestamp", record.timestamp)
    data = inputs.of_run(run)
    metrics = []
    for key, value in values.numbers(record.evaluation or {}).items():
        of = next((one for one in data if one.measures(key)), None)
        tied = {"dataset_name": of.name, "dataset_digest": of.digest} if of else {}
        metrics.append(Metric(key, value, timestamp, record.step, model_id=model_id, **tied))
    client.log_batch(run.run_id, metrics=metrics)


def write_table(directory: Path, name: str, step: int, rows: list[dict[str, Any]]) -> None:
    """Add a table to the run directory's tables/NAME.jsonl, one line a step.

    Each tracker of a run does so: a line that is the last one already is not added again.
    """
    folder = directory / "tables"
    folder.mkdir(exist_ok=True)
    line = json.dumps({"step": step, "rows": rows}, default=str) + "\n"
    with (folder / f"{values.model_name(name)}.jsonl").open("a+", encoding="utf-8") as file:
        file.seek(0)
        if file.read().endswith(line):
            return
        file.write(line)


def send_examples(run: TrackedRun, client: MlflowClient) -> None:
    """What the kept evaluations of an ended run are made of, so that it can be compared."""
    for file in sorted((run.directory / EXAMPLES).glob("*.parquet")):
        client.log_artifact(run.run_id, str(file), EXAMPLES)


def send_tables(run: TrackedRun, client: MlflowClient) -> None:
    """Each file of tables/ as one artifact that MLflow's UI shows as a table, newest rows first.

    Where the UI compares runs by a table, it groups its rows by the first column and shows the
    second one of the first row of each group: the last answer to each prompt.
    """
    names = []
    for file in sorted((run.directory / "tables").glob("*.jsonl")):
        by_step = {entry["step"]: entry["rows"] for entry in json_lines(file)}
        steps = sorted(by_step, reverse=True)
        rows = [{**row, "step": step} for step in steps for row in by_step[step]]
        columns = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
        columns.append("step")
        data = [[row.get(column) for column in columns] for row in rows]
        client.log_dict(run.run_id, {"columns": columns, "data": data}, f"{file.stem}.json")
        names.append({"path": f"{file.stem}.json", "type": "table"})
    if names:
        client.set_tag(run.run_id, "mlflow.loggedArtifacts", json.dumps(names))
