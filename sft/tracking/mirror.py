"""One run directory and its MLflow run: bring what the first holds into the second.

`Mirror.sync` may be stopped by an error at any request and called again: everything it sends can
be sent twice without a change, and what it creates is looked up before it is created again.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.record.checkpoints import CheckpointFile, CheckpointRecord
from sft.record.metrics import read
from sft.record.system_metrics import FILE as SYSTEM_FILE
from sft.secrets import mask_urls
from sft.tracking import begin, inputs, kept_data, models, values
from sft.tracking.run_in_store import ensure_run
from sft.tracking.store import Store, cause_of, is_permanent
from sft.tracking.tracked_run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger("sft.tracking")

MAX_PENDING = 10_000
"""Rows kept in memory while a store is away; beyond them their files are read again."""
METRICS_PER_BATCH = 1_000
FILE_ATTEMPTS = 3
"""Failures after which a run goes on without its files in MLflow."""
OF_AN_END = {"sft.error", "sft.reason", "sft.verdict"}
"""Tags that say how a run ended: they do not outlast a life that another one goes on from."""
MLFLOW_STATUS = {"PRUNED": "KILLED", "PAUSED": "SCHEDULED"}
"""MLflow has neither; FINISHED stays for runs that reached their end. The word is in a tag."""


@dataclass
class Mirror:
    """What one run sends. Hooks fill it on their thread; one writer thread empties it."""

    run: TrackedRun
    rows: deque[tuple[int, int, dict[str, float]]] = field(default_factory=deque)
    """(step, timestamp in ms, metrics) of metrics.jsonl and system.jsonl that are not yet sent."""
    whole_file: bool = False
    """Everything in these files is to be sent, again or for the first time."""
    begun: bool = False
    """Parameters, tags and files were sent by this process."""
    new_checkpoints: bool = True
    new_files: bool = True
    """config.yaml, run.json, tables: sent once everything else is."""
    end: dict[str, Any] | None = None
    """`status`, `error`, `reason` and `time` (ms) once the run has ended."""
    closed: bool = False
    """The end was sent: nothing is left to do."""
    _refused: set[str] = field(default_factory=set)
    _file_failures: int = 0
    _busy: bool = False

    @property
    def directory(self) -> Path:
        return self.run.directory

    @property
    def store(self) -> Store:
        return self.run.store

    # --- what the hook says happened -------------------------------------------------------------

    def measured(self, step: int, timestamp_ms: int, metrics: dict[str, float]) -> None:
        """A row is in metrics.jsonl or in system.jsonl."""
        self.rows.append((step, timestamp_ms, dict(metrics)))

    def measured_before(self) -> None:
        """metrics.jsonl and system.jsonl hold rows that another process wrote."""
        self.whole_file = True

    def saved(self, record: CheckpointRecord) -> None:
        """`record` is in checkpoints.jsonl; its MLflow model id will be entered in it."""
        self.run.records[record.name] = record
        self.new_checkpoints = True

    def wrote_a_file(self) -> None:
        """There is a new table, or a new one of the other files of the run directory."""
        self.new_files = True

    def ended(self, status: str, error: str | None, reason: str | None, seconds: float) -> None:
        """The run has ended, at `seconds` since 1970."""
        self.new_checkpoints = self.new_files = True
        self.end = {"status": status, "error": error, "reason": reason, "time": int(seconds * 1000)}

    @property
    def pending(self) -> bool:
        """Whether anything waits to be sent."""
        return not self.closed and bool(
            self.rows
            or self.whole_file
            or not self.begun
            or self.new_checkpoints
            or self.new_files
            or self.end
            or self._busy
        )

    def sync(self) -> None:
        """Send all that is pending. Raises what the store raises when it does not answer."""
        self._busy = True
        try:
            self._sync()
        finally:
            self._busy = False

    def _sync(self) -> None:
        client = self.store.client()
        if not self.begun:
            ensure_run(self.run, client, self._warn)
            self._begin(client)
            self.begun = True
        if self.whole_file:
            self._send_file(client)
        self._send_rows(client)
        if self.new_checkpoints:
            self.new_checkpoints = False
            with self._again("new_checkpoints"):
                self._send_checkpoints(client)
        if self.new_files:
            self.new_files = False
            with self._again("new_files"):
                self._send_files(client)
        if self.end and not self.rows and not self.new_checkpoints and not self.new_files:
            self._send_end(client)

    def forget_rows_beyond(self, limit: int = MAX_PENDING) -> None:
        """Keep memory bounded while the store is away."""
        if len(self.rows) > limit:
            self.whole_file = True
            self.rows.clear()

    # --- the run itself -------------------------------------------------------------------------

    def _begin(self, client: MlflowClient) -> None:
        """Parameters, tags, description and the data."""
        client.update_run(self.run.run_id, status="RUNNING")
        there = client.get_run(self.run.run_id).data
        with self._unless_refused("parameters"):
            if changed := begin.send_parameters(self.run, client, there.params):
                self._warn("parameters", f"keeps the first values of {', '.join(changed)}")
        tags = begin.tags(self.run)
        if self.run.resumed_at is not None:
            steps = there.tags.get("sft.resumed_at", "").split(", ")
            steps += [str(self.run.resumed_at)] if steps[-1] != str(self.run.resumed_at) else []
            tags["sft.resumed_at"] = ", ".join(step for step in steps if step)
        for tag in OF_AN_END & there.tags.keys():
            client.delete_tag(self.run.run_id, tag)
        self._set_tags(client, tags)
        with self._unless_refused("data"):
            inputs.send(self.run, client)

    # --- metrics --------------------------------------------------------------------------------

    def _send_file(self, client: MlflowClient) -> None:
        self.rows.clear()
        self.whole_file = False
        with self._again("whole_file"):
            files = (self.directory / name for name in ("metrics.jsonl", SYSTEM_FILE))
            rows = [(r["step"], r["timestamp"], r) for file in files for r in read(file)]
            while rows:
                del rows[: self._send_batch(client, rows)]

    def _send_rows(self, client: MlflowClient) -> None:
        while self.rows:
            for _ in range(self._send_batch(client, list(self.rows))):
                self.rows.popleft()

    def _send_batch(self, client: MlflowClient, rows: list[tuple[int, int, dict]]) -> int:
        """Send as many of the first `rows` as one request takes; returns how many."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        count = 0
        for step, timestamp, row in rows:
            metrics = [Metric(k, v, timestamp, step) for k, v in values.numbers(row).items()]
            if count and len(batch) + len(metrics) > METRICS_PER_BATCH:
                break
            batch += metrics[:METRICS_PER_BATCH]
            count += 1
        with self._unless_refused("metrics"):
            client.log_batch(self.run.run_id, metrics=batch)
        return count

    # --- checkpoints, tables, end ---------------------------------------------------------------

    def _send_checkpoints(self, client: MlflowClient) -> None:
        with self._unless_refused("checkpoints"):
            self._set_tags(client, models.send_checkpoints(self.run, client))

    def _send_files(self, client: MlflowClient) -> None:
        """Files go where artifacts are kept, which may fail although the store itself answers."""
        try:
            begin.send_files(self.run, client)
            if self.end:
                models.send_examples(self.run, client)
            models.send_tables(self.run, client)
            for sentence in kept_data.send(self.run, client):
                self._warn("files of data", sentence)
        except Exception as error:
            self._file_failures += 1
            if not is_permanent(error) and self._file_failures < FILE_ATTEMPTS:
                raise
            why = cause_of(error)
            self._warn("files", f"has no place for the files of {self.directory}: {why}")

    def _record_models(self) -> None:
        """Write the ended run's model ids into its checkpoints.jsonl: the loop is done with it."""
        file = CheckpointFile(self.directory / "checkpoints.jsonl")
        ids = {name: model["id"] for name, model in self.run.state["models"].items()}
        if any(record.mlflow_model_id != ids.get(record.name) for record in file.records):
            for record in file.records:
                record.mlflow_model_id = ids.get(record.name)
            file.update()

    def _send_end(self, client: MlflowClient) -> None:
        end = self.end or {}
        status = end["status"]
        tags = {
            "sft.status": status,
            "sft.error": end.get("error"),
            "sft.reason": end.get("reason"),
        }
        with self._unless_refused("end"):
            self._set_tags(client, {k: v for k, v in tags.items() if v} | self.run.tags)
            client.set_terminated(
                self.run.run_id, MLFLOW_STATUS.get(status, status), end_time=end.get("time")
            )
        self._record_models()
        self.run.save(ended=status)
        self.closed = True

    def _set_tags(self, client: MlflowClient, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            entities = [RunTag(values.name(k), values.tag(str(v))) for k, v in tags.items()]
            client.log_batch(self.run.run_id, tags=entities)

    # --- what goes wrong ------------------------------------------------------------------------

    def _again(self, flag: str) -> _Again:
        return _Again(self, flag)

    def _unless_refused(self, what: str) -> _UnlessRefused:
        return _UnlessRefused(self, what)

    def _warn(self, what: str, text: str) -> None:
        """Say once a run and subject what MLflow would not take."""
        if what not in self._refused:
            self._refused.add(what)
            logger.warning("MLflow at %s %s", mask_urls(self.store.uri), mask_urls(text))


@dataclass
class _Again:
    """Set the mirror's flag again when its work fails: a later sync starts it over."""

    mirror: Mirror
    flag: str

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            setattr(self.mirror, self.flag, True)


@dataclass
class _UnlessRefused:
    """Pass over what MLflow will never accept, with a warning: the rest must not wait for it."""

    mirror: Mirror
    what: str

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception) and is_permanent(error):
            message = str(error).strip().splitlines()[0][:300]
            self.mirror._warn(
                self.what, f"refuses {self.what} of {self.mirror.directory}: {message}"
            )
            return True
        return False
