"""MLflow as a view of a run: a hook that mirrors the run directory into a tracking store.

    hook = MlflowHook("sqlite:///mlflow.db", "sft", "first run")
    await train.main(config, hooks=[hook])
    for sentence in tracking.flush(30):
        print(sentence)

The run directory is the truth. The hook only notes what is new; one writer thread a process
sends it, so a store that is slow, down or locked neither slows nor kills training. What it
misses is sent when it is back: by the same process, by the one that resumes the run, or by
`python -m sft.runs`.

A resumed run goes on in its MLflow run. MLflow cannot delete points: those that the ended process
logged beyond the checkpoint stay, and the steps trained again add points beside them, with a
later timestamp, which is the one MLflow counts as a step's last value. The tag `sft.resumed_at`
and the run's description say so; `metrics.jsonl` holds each step once.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.config.secrets import without_secrets
from sft.files import read_yaml
from sft.hooks import BaseHook
from sft.record.rundir import read_facts
from sft.record.system_metrics import Sampler
from sft.service import child
from sft.tracking import moved_project
from sft.tracking.begin import plain
from sft.tracking.mirror import Mirror
from sft.tracking.models import write_table
from sft.tracking.store import check_uri, experiment_name, tracking_uri
from sft.tracking.tracked_run import TrackedRun, read_state
from sft.tracking.writer import writer

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.hooks import Run, RunResult
    from sft.record.checkpoints import CheckpointRecord

logger = logging.getLogger(__name__)

__all__ = ["MlflowHook", "check_uri", "flush", "sync"]

PARENT_RUN = "sweep.parent_run"
"""The tag that holds the id of the sweep's own run, for which MLflow has a tag of its own."""


class MlflowHook(BaseHook):
    """Mirrors one run into the MLflow store at `uri`.

    Without `uri` and `experiment` they are those of MLflow's variables `MLFLOW_TRACKING_URI` and
    `MLFLOW_EXPERIMENT_NAME`, or else of a run of the command line.
    `run_id` names an existing MLflow run to go on in; without it, the run directory's own is
    taken if it has one, or a new one is made. `key` is what the store knows the new one by: with
    the key of a run that another machine began, that run goes on. `parent_run_id` puts the run
    under another in the UI. Raises `BadInput` for a URI that can never work; one that does not
    answer is no error.
    """

    def __init__(
        self,
        uri: str | None = None,
        experiment: str | None = None,
        run_name: str | None = None,
        *,
        run_id: str | None = None,
        key: str | None = None,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ):
        self.uri, self.experiment = tracking_uri(uri), experiment_name(experiment)
        self.run_name = run_name
        check_uri(self.uri)
        self.tags = dict(tags or {})
        if parent_run_id is not None:
            self.tags["mlflow.parentRunId"] = parent_run_id
        self._given_run_id, self._key = run_id, key
        self._mirror: Mirror | None = None
        self._sampler: Sampler | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id once it exists."""
        return self._mirror.run.run_id if self._mirror else self._given_run_id

    def on_start(self, run: Run) -> None:
        tracked = TrackedRun(
            run.directory,
            writer().store(self.uri),
            self.experiment,
            name=self.run_name or run.name,
            run_id=self._given_run_id,
            new_key=self._key,
            tags=self.tags,
            settings=run.settings,
            facts=read_facts(run.directory) | plain(run.facts),
            resumed_at=run.start_step or None,
        )
        tracked.save(facts=tracked.facts_of_data(), tags=self.tags, ended=False)
        self._mirror = Mirror(tracked)
        if run.start_step > 0:
            self._mirror.measured_before()
        writer().add(self._mirror)
        if (run.settings.get("tracking") or {}).get("system_metrics", True):
            base_url = getattr(run.config, "base_url", None)
            self._sampler = Sampler(run.directory, self._measured, lambda: child.pid(base_url))
            self._sampler.start()

    def on_metrics(self, step: int, metrics: dict[str, float], timestamp_ms: int) -> None:
        self._measured(step, timestamp_ms, metrics)

    def _measured(self, step: int, timestamp_ms: int, metrics: dict[str, float]) -> None:
        if self._mirror:
            self._mirror.measured(step, timestamp_ms, metrics)
            writer().wake()

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        if self._mirror:
            self._mirror.saved(record)
            writer().wake()

    def on_table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        if self._mirror:
            write_table(self._mirror.directory, name, step, rows)
            self._mirror.wrote_a_file()
            writer().wake()

    def on_end(self, result: RunResult) -> None:
        if self._sampler:
            self._sampler.stop()
        if self._mirror:
            self._mirror.ended(result.status, result.error, result.reason, time.time())
            writer().wake()

    def flush(self, timeout: float = 30.0) -> list[str]:
        """Wait until MLflow has everything of this process, and log a warning if it hasn't."""
        sentences = flush(timeout)
        for sentence in sentences:
            logger.warning("%s", sentence)
        return sentences


class Mlflow:
    """The tracker that `tracking.uri` and `tracking.experiment` choose."""

    title = "MLflow"

    def hook(self, settings: Settings, tags: Mapping[str, str]) -> MlflowHook | None:
        chosen = settings.tracking
        if chosen.uri is None:
            return None
        return MlflowHook(
            chosen.uri,
            chosen.experiment,
            settings.run_name,
            key=_key_of_trial(tags),
            parent_run_id=tags.get(PARENT_RUN),
            tags={name: value for name, value in tags.items() if name != PARENT_RUN},
        )

    def flush(self, timeout: float) -> list[str]:
        return flush(timeout)

    def sync(self, directory: Path, uri: str | None = None) -> bool:
        return sync(directory, uri)


def _key_of_trial(tags: Mapping[str, str]) -> str | None:
    """The same on every machine; None for what is no trial of a sweep that MLflow has."""
    if PARENT_RUN not in tags:
        return None
    names = (PARENT_RUN, "sweep.trial", "sweep.repeat")
    return hashlib.sha256(" ".join(tags.get(name, "") for name in names).encode()).hexdigest()[:32]


def flush(timeout: float = 30.0) -> list[str]:
    """Wait until MLflow has everything, at most `timeout` seconds.

    Returns a sentence for each run of which something could not be sent.
    """
    return writer().flush(timeout)


def sync(directory: Path, uri: str | None = None) -> bool:
    """Have the writer send what MLflow lacks of the ended run in `directory`.

    `uri` replaces the one that the run recorded. False if MLflow has it all, or if the run
    has no MLflow. Call `flush` to wait for it.
    """
    state, facts = read_state(directory), read_facts(directory)
    if not state or state.get("ended") in (True, facts.get("status", "KILLED")):
        return False
    verdict = {"sft.verdict": facts["verdict"]} if facts.get("verdict") else {}
    tracked = TrackedRun(
        directory,
        writer().store(tracking_uri(uri or moved_project.store(directory, state["uri"]))),
        state["experiment"],
        name=facts.get("name") or directory.name,
        run_id=state.get("run_id"),
        settings=without_secrets(read_yaml(directory / "config.yaml")),
        facts=state.get("facts", {}) | facts,
        tags=state.get("tags", {}) | verdict,
    )
    mirror = Mirror(tracked)
    mirror.measured_before()
    ended = facts.get("ended") or time.time()
    mirror.ended(facts.get("status", "KILLED"), facts.get("error"), facts.get("reason"), ended)
    writer().add(mirror)
    return True
