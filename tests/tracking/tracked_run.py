"""A run directory filled by hand, and the MLflow hook told of it, as the training loop does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from sft.hooks import Run, RunResult
from sft.record.checkpoints import CheckpointFile, CheckpointRecord
from sft.record.metrics import MetricsFile
from sft.tracking.hook import MlflowHook
from sft.tracking.store import open_client

SETTINGS = {
    "lr": 1e-4,
    "seed": 0,
    "max_steps": None,
    "model": {"name": "tiny"},
    "lora": {"rank": 8, "train_attn": True},
    "dataset": {"kind": "faq", "args": {}},
}


class TrackedRun:
    """What `train.main` does around its hooks, without a service."""

    def __init__(self, directory: Path, uri: str, name: str = "first", settings=None, **options):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.settings = settings or SETTINGS
        self.facts = {"name": name, "git": {"commit": "a" * 40, "dirty": True, "diff": "+one"}}
        (directory / "config.yaml").write_text(yaml.safe_dump(self.settings))
        self.record(overrides=["lr=1e-4"], command="python -m sft lr=1e-4", status="RUNNING")
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self.checkpoints = CheckpointFile(directory / "checkpoints.jsonl")
        self.hook = MlflowHook(uri, "tests", name, **options)
        self.name = name

    def record(self, **facts):
        self.facts |= facts
        (self.directory / "run.json").write_text(json.dumps(self.facts))

    def start(self, start_step: int = 0, **more) -> TrackedRun:
        facts = {"digest": "0123456789abcdef", "data": {"tokens": 100}, "held_out": None, **more}
        run = Run(None, self.settings, self.directory, self.name, facts, start_step)
        self.hook.on_start(run)
        return self

    def step(self, step: int, **metrics: float) -> None:
        values = {key.replace("_", "/"): value for key, value in metrics.items()}
        self.hook.on_metrics(step, values, self.metrics.merge(step, values))

    def checkpoint(self, step: int, kind: str = "periodic", evaluation=None) -> CheckpointRecord:
        name = "final" if kind == "final" else f"{step:06d}"
        paths = [
            f"tinker://run:train:0/{folder}/{name}" for folder in ("weights", "sampler_weights")
        ]
        record = CheckpointRecord(name, step, 0, step, step * 10, *paths, evaluation, kind=kind)
        self.checkpoints.append(record)
        self.hook.on_checkpoint(record)
        return record

    def end(
        self, status: str = "FINISHED", error: str | None = None, reason: str | None = None
    ) -> None:
        self.record(status=status, error=error, reason=reason)
        self.hook.on_end(RunResult(status, self.directory, self.name, 3, error, reason))


def fresh_store(template: Path, folder: Path) -> str:
    """The URI of an empty SQLite store in `folder`: a copy of `template`, made once."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def only_run(uri, experiment="tests"):
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    assert len(runs) == 1
    return client, runs[0]
