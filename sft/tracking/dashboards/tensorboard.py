"""TensorBoard: event files in the run directory, which `tensorboard --logdir outputs` shows.

They are written anew when a run is resumed: `metrics.jsonl` holds each step once, and so do they.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.tracking.dashboards.dashboard import Dashboard
from sft.tracking.dashboards.page import End, Row, Told

if TYPE_CHECKING:
    from sft.record.checkpoints import CheckpointRecord

FOLDER = "tensorboard"


@dataclass
class Options:
    """None: the files lie in the run directory."""


class EventFile:
    """One run as an event file: scalars, texts, and the settings for the tab of hyperparameters.

    Tags of the latter as of TensorBoard's plugin `hparams` (its `metadata.py`).
    """

    def __init__(self, told: Told):
        self.told = told
        self.folder = told.directory / FOLDER

    def begin(self) -> bool:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(exist_ok=True)
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        now = time.time()
        file = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{now % 1:.6f}"
        self._writer = RecordWriter(Path(self.folder, file).open("ab"))
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        # A TensorBoard that has read the earlier file forgets its points.
        started = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=now, step=0, session_log=started))
        self._hyperparameters("session_start_info", self._session())
        self._text("config", 0, _as_code(self.told.settings))
        self._writer.flush()
        return False

    def rows(self, rows: list[Row]) -> bool:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for step, timestamp, metrics in rows:
            points = [Summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
            summary = Summary(value=points)
            self._write(Event(wall_time=timestamp / 1000, step=step, summary=summary))
        self._writer.flush()
        return True

    def table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        self._text(name, step, _as_table(rows))
        self._writer.flush()

    def checkpoints(self, records: list[CheckpointRecord]) -> None:
        rows = [
            {"name": r.name, "step": r.step, "state": r.state_path, "sampler": r.sampler_path}
            for r in records
        ]
        self._text("checkpoints", records[-1].step, _as_table(rows))
        self._writer.flush()

    def end(self, end: End) -> None:
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

        of_status = {"FAILED": api_pb2.STATUS_FAILURE, "KILLED": api_pb2.STATUS_FAILURE}
        info = plugin_data_pb2.SessionEndInfo(
            status=of_status.get(end.status, api_pb2.STATUS_SUCCESS), end_time_secs=end.seconds
        )
        self._hyperparameters(
            "session_end_info", plugin_data_pb2.HParamsPluginData(session_end_info=info)
        )
        self._text("status", 0, f"{end.status}: {end.reason}" if end.reason else end.status)
        self._writer.close()

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def _session(self) -> Any:
        from tensorboard.plugins.hparams import plugin_data_pb2

        info = plugin_data_pb2.SessionStartInfo(
            start_time_secs=time.time(), group_name=self.told.id
        )
        for name, value in self.told.parameters.items():
            if isinstance(value, bool):
                info.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                info.hparams[name].number_value = value
            elif value is not None:
                words = value if isinstance(value, str) else json.dumps(value, default=str)
                info.hparams[name].string_value = words
        return plugin_data_pb2.HParamsPluginData(session_start_info=info)

    def _hyperparameters(self, what: str, data: Any) -> None:
        from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

        self._summary(f"_hparams_/{what}", 0, NULL_TENSOR, create_summary_metadata(data))

    def _text(self, tag: str, step: int, markdown: str) -> None:
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        tensor = make_tensor_proto(markdown.encode(), shape=())
        metadata = create_summary_metadata(display_name="", description="")
        self._summary(f"{tag}/text_summary", step, tensor, metadata)

    def _summary(self, tag: str, step: int, tensor: Any, metadata: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        value = Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))


def _as_code(settings: Any) -> str:
    """Nested values as text that Markdown leaves as it is."""
    lines = json.dumps(settings, indent=2, ensure_ascii=False, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _as_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table of Markdown."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *cells])


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


TENSORBOARD = Dashboard(
    "tensorboard", "TensorBoard", Options, lambda told, options, settings: EventFile(told)
)
