"""Which of a run's checkpoints a word means, on this machine or in MLflow alone."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput, nearest
from sft.past.find import Found, find
from sft.past.registry import is_registered
from sft.record import checkpoints
from sft.record.checkpoints import CheckpointRecord, best_of
from sft.record.metrics import evaluated
from sft.tracking import moved_project

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sft.config.schema import Settings

CHECKPOINT = "best (in the run's `metric`), last or a name; default: the last one"
"""What `--checkpoint` takes."""
PATH = re.compile(r"tinker://(?!\.\.?/)[^/\s]+/(?:sampler_)?weights/(?!\.\.?$)[^/\s]+")


def choose(found: Found, word: str | None = None) -> CheckpointRecord:
    """The checkpoint of `found` that `word` means: `best`, `last`, its name; None: the last, or
    that of the registered model by which the run was found. Raises `BadInput`."""
    records = _records(found)
    if found.state_path:
        if word is not None:
            raise BadInput(f"--checkpoint: {found.word} names a checkpoint already; leave it out")
        for record in records:
            if record.state_path == found.state_path:
                return record
        raise BadInput(
            f"{found.word}: its checkpoint, {found.state_path}, is not kept any more: a later one "
            "replaced it (checkpoint.keep), or it was deleted; promote another one"
        )
    if not records:
        raise BadInput(f"{found.directory or found.word}: the run has no checkpoint yet")
    if word in (None, "last"):
        return records[-1]
    if word == "best":
        chosen = best_of(records, found.saved())
        if chosen is None:
            metric = found.saved().get("metric", "eval/nll")
            values = [item for one in records for item in (one.evaluation or {}).items()]
            there = evaluated({name for name, value in values if math.isfinite(value)})
            they_have = f" (they have {', '.join(there)})" if there else ""
            raise BadInput(
                f"--checkpoint: no checkpoint of the run has a number for its metric, {metric}"
                f"{they_have}, so that none is the best; name one, or last"
            )
        return chosen
    names = [record.name for record in records]
    if word not in names:
        raise BadInput(
            f"--checkpoint: the run has no '{word}', but {', '.join(names)}"
            f"{nearest(str(word), names)}"
        )
    return records[names.index(str(word))]


def at_step(found: Found, step: int) -> CheckpointRecord:
    """The checkpoint behind `step` steps of `found`. Raises `BadInput`."""
    records = _records(found)
    for record in records:
        if record.step == step:
            return record
    steps = ", ".join(str(record.step) for record in records)
    raise BadInput(
        f"--from: {found.word} has no checkpoint behind {step} steps"
        + (f", but behind {steps}" if records else ": it has none yet")
    )


def weights(word: str, uri: str | None) -> str:
    """The `tinker://` path of weights to start from that `word` means: a path of that kind, or a
    registered model, looked up in the store `uri`. Raises `BadInput`."""
    if not is_registered(word):
        return word
    try:
        return choose(find(word, uri)).state_path
    except BadInput as error:
        raise BadInput(f"checkpoint.load: {error}") from None


def home(found: Found, settings: Settings) -> Path:
    """The working folder that the relative paths of the run are meant from. Raises `BadInput`."""
    return moved_project.home(found.directory, settings) if found.directory else Path.cwd()


def _records(found: Found) -> list[CheckpointRecord]:
    """The run's checkpoints, oldest first."""
    if found.directory:
        file = found.directory / "checkpoints.jsonl"
        return checkpoints.read(file) if file.exists() else []
    if found.run_id is None:
        raise BadInput(f"{found.word}: is a config alone, which has no checkpoints")
    return _of_mlflow(found.client(), found.run_id)


def _of_mlflow(client: MlflowClient, run_id: str) -> list[CheckpointRecord]:
    run = client.get_run(run_id)
    steps = {output.model_id: output.step for output in run.outputs.model_outputs}
    found: list[CheckpointRecord] = []
    token: str | None = ""
    while token is not None:
        page = client.search_logged_models(
            [run.info.experiment_id],
            filter_string=f"source_run_id = '{run_id}'",
            page_token=token or None,
        )
        found += [_record(model, steps) for model in page if "sft.state_path" in model.tags]
        token = page.token or None
    return sorted(found, key=lambda record: (record.step, record.timestamp))


def _record(model: Any, steps: dict[str, int]) -> CheckpointRecord:
    tags = model.tags
    paths = tags["sft.state_path"], tags.get("sft.sampler_path", "")
    for path in paths:
        if not PATH.fullmatch(path):  # it came from elsewhere
            raise BadInput(f"models:/{model.model_id}: '{path}' is no path of a checkpoint")
    return CheckpointRecord(
        name=tags.get("sft.checkpoint", model.name),
        step=steps.get(model.model_id, 0),
        epoch=int(tags.get("sft.epoch", 0)),
        next_batch=0,  # MLflow does not know it; only a run directory can be resumed
        tokens=int(tags.get("sft.tokens", 0)),
        state_path=paths[0],
        sampler_path=paths[1],
        evaluation={metric.key: metric.value for metric in model.metrics or ()} or None,
        mlflow_model_id=model.model_id,
        kind=tags.get("sft.kind", "periodic"),
        timestamp=model.creation_timestamp,
    )
