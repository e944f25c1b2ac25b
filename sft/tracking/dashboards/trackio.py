"""Trackio: a database on this machine, which `trackio show` opens, or a server of one's own.

Its own `init` and `log` know one run a process. Here each run is written by what lies under them,
`bulk_log`, which takes the id and the time of each row: what is sent twice changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput
from sft.keys import key
from sft.tracking.dashboards.dashboard import Dashboard
from sft.tracking.dashboards.page import End, Row, Told

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.record.checkpoints import CheckpointRecord


@dataclass
class Options:
    """Raises `BadInput` for an address that is none."""

    project: str | None = key(None, "null: tracking.experiment")
    server: str | None = key(
        None, "URL of a Trackio server; null: TRACKIO_SERVER_URL, else this machine's database"
    )

    def __post_init__(self) -> None:
        self.server = self.server or os.environ.get("TRACKIO_SERVER_URL") or None
        if self.server and not self.server.startswith(("http://", "https://")):
            raise BadInput(
                f"tracking.also.trackio.server: '{self.server}' is not an http(s):// URL"
            )


class TrackioRun:
    """One run in Trackio. It has no place for an end: status and checkpoints are in its config."""

    def __init__(self, told: Told, options: Options, settings: Settings):
        self.told, self.server = told, options.server
        self.project = options.project or settings.tracking.experiment
        self._config: dict[str, Any] = told.parameters | {
            "_Group": told.tags.get("sweep.study"),
            "_Created": datetime.now(UTC).isoformat(),
        }
        self._step = 0

    def begin(self) -> bool:
        if self.server:
            from trackio.remote_client import RemoteClient

            token = os.environ.get("TRACKIO_WRITE_TOKEN")
            self._client = RemoteClient(self.server, write_token=token, verbose=False)
        return True

    def rows(self, rows: list[Row]) -> bool:
        self._step = max(self._step, *(step for step, _, _ in rows))
        self._log([(step, _iso(ms), metrics, _names(metrics)) for step, ms, metrics in rows])
        return True

    def table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        """Nothing: a table of Trackio is a file of its server's."""

    def checkpoints(self, records: list[CheckpointRecord]) -> None:
        for record in records:
            self._config[f"checkpoints.{record.name}"] = record.state_path

    def end(self, end: End) -> None:
        self._config |= {"status": end.status, "reason": end.reason}
        # The config goes with a row.
        self._log([(self._step, _iso(int(end.seconds * 1000)), {}, f"end {end.seconds}")])

    def _log(self, rows: list[tuple[int, str, dict[str, float], str]]) -> None:
        ids = [f"{self.told.id} {step} {time} {what}" for step, time, _, what in rows]
        if self.server:
            run = {"project": self.project, "run": self.told.name, "run_id": self.told.id}
            logs = [
                {**run, "metrics": metrics, "step": step, "log_id": id}
                for (step, _, metrics, _), id in zip(rows, ids, strict=True)
            ]
            logs[0]["config"] = self._config
            self._client.predict(api_name="/bulk_log", logs=logs, hf_token=None)
            return
        from trackio.sqlite_storage import SQLiteStorage

        SQLiteStorage.bulk_log(
            project=self.project,
            run=self.told.name,
            run_id=self.told.id,
            metrics_list=[metrics for _, _, metrics, _ in rows],
            steps=[step for step, _, _, _ in rows],
            timestamps=[time for _, time, _, _ in rows],
            log_ids=ids,
            config=self._config,
        )


def _names(metrics: dict[str, float]) -> str:
    return " ".join(sorted(metrics))


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


TRACKIO = Dashboard("trackio", "Trackio", Options, TrackioRun)
