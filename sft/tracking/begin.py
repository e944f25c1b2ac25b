"""What MLflow is told of a run when it begins: parameters, tags, description and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sft.config.data_name import data_name
from sft.record.rundir import BATCHES_FILE, MAY_CHANGE
from sft.secrets import mask_urls
from sft.tracking import values

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sft.tracking.tracked_run import TrackedRun

PARAMETERS_PER_BATCH = 50
DOUBLED_POINTS = """\
It was resumed: steps that an ended process had trained beyond its last checkpoint were trained
again, and MLflow, which cannot delete points, shows both; the later in time counts.
`metrics.jsonl` in the run directory holds each step once."""


def send_parameters(run: TrackedRun, client: MlflowClient, there: Mapping[str, str]) -> list[str]:
    """Send the settings that MLflow lacks; returns those it has with another value, but for what a
    run may go on with another value of."""
    from mlflow.entities import Param

    new = values.parameters(run.settings)
    missing = [Param(key, value) for key, value in new.items() if key not in there]
    for i in range(0, len(missing), PARAMETERS_PER_BATCH):
        client.log_batch(run.run_id, params=missing[i : i + PARAMETERS_PER_BATCH])
    changed = [key for key, value in new.items() if there.get(key, value) != value]
    return [key for key in changed if key.partition(".")[0] not in MAY_CHANGE]


def tags(run: TrackedRun) -> dict[str, str]:
    """The run's tags: MLflow's own, which its UI has columns for, and the harness's `sft.*`."""
    git = run.facts.get("git") or {}
    found = {
        "mlflow.source.name": "python -m sft",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "mlflow.source.git.dirty": values.text(git["dirty"]) if "dirty" in git else None,
        "mlflow.note.content": _description(run),
        "sft.run_dir": str(run.directory.absolute()),
        "sft.status": "RUNNING",
        "sft.data": data_name(run.settings.get("dataset") or {}),
        "sft.data_digest": run.facts.get("digest"),
    }
    return {key: value for key, value in found.items() if value} | run.tags


def _description(run: TrackedRun) -> str:
    """Markdown above the run in the UI: the commands that go on from here."""
    commands = [
        ("Run it again and compare the numbers:", f"python -m sft.reproduce {run.run_id}"),
        ("Continue it from its last checkpoint:", f"python -m sft.resume {run.run_id}"),
        ("Talk to what was trained:", f'python -m sft.sample {run.run_id} "a prompt"'),
    ]
    if command := run.facts.get("command"):
        commands.append(("It was started with:", command))
    paragraphs = [f"{words}\n\n    {command}\n" for words, command in commands]
    if run.resumed_at is not None:
        paragraphs.append(DOUBLED_POINTS)
    return "\n".join(paragraphs)


def send_files(run: TrackedRun, client: MlflowClient) -> None:
    """The resolved config, the overrides it came from, run.json and the uncommitted diff."""
    for name in ("config.yaml", "run.json", BATCHES_FILE):
        if (run.directory / name).exists():
            text = (run.directory / name).read_text(encoding="utf-8")
            client.log_text(run.run_id, mask_urls(text), name)  # earlier versions' hold secrets
    overrides = run.facts.get("overrides")
    if overrides is not None:
        client.log_text(run.run_id, "".join(f"{o}\n" for o in overrides), "overrides.txt")
    if diff := (run.facts.get("git") or {}).get("diff"):
        client.log_text(run.run_id, diff, "uncommitted.diff")


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` as JSON has them; a dataclass becomes its fields."""
    return json.loads(json.dumps(facts, default=lambda v: getattr(v, "__dict__", str(v))))
