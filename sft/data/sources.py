"""Where conversations come from: a file of JSON lines, or a dataset that `datasets` has loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data import columns
from sft.errors import BadInput
from sft.rendering.base import Messages
from sft.rendering.conversations import Conversation, check_conversation
from sft.rendering.report import Report

if TYPE_CHECKING:
    import datasets

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object a line, in UTF-8. Empty lines are skipped."""

    path: Path
    layout: str = "messages"
    """One of `sft.data.layouts.LAYOUTS`, or `auto`: what the first object's keys say."""

    @property
    def name(self) -> str:
        return str(self.path)

    def where(self, number: int) -> str:
        return f"{self.path} line {number}"

    def key(self) -> str:
        with _open(self.path) as file:
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {self.layout}"

    def conversations(self) -> Iterator[tuple[int, Conversation | BadInput]]:
        layout = self.layout
        with _open(self.path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = self.where(number)
                row = _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where)
                if layout == "auto":
                    layout = columns.detect(row if isinstance(row, dict) else (), where)
                yield number, Conversation(checked(row, layout, where))

    def report(self) -> Report:
        return Report()


def _open(path: Path) -> Any:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise BadInput(f"dataset.path: there is no file {path}") from None
    except IsADirectoryError:
        raise BadInput(
            f"dataset.path: {path} is a folder; expected a file of JSON lines "
            "(dataset=hf_chat reads folders)"
        ) from None
    except OSError as error:
        raise BadInput(f"dataset.path: {path} cannot be read: {error.strerror}") from None


def _parse(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadInput(f"{where}: not a conversation: nested too deeply") from None


@dataclass(frozen=True)
class Rows:
    """The rows of a `datasets.Dataset`, read in blocks: it stays on disk."""

    dataset: datasets.Dataset
    name: str
    layout: str = "auto"

    def where(self, number: int) -> str:
        return f"{self.name} row {number}"

    def key(self) -> str:
        # Of the dataset's content and history, as `datasets` itself names its caches.
        return f"{self.dataset._fingerprint} {len(self.dataset)} {self.layout}"

    def conversations(self) -> Iterator[tuple[int, Conversation | BadInput]]:
        layout = self.layout
        if layout == "auto":
            layout = columns.detect(self.dataset.column_names, self.name)
        else:
            columns.require(self.dataset.column_names, layout, self.name)
        rows = self.dataset.with_format(None)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = rows[start : start + ROWS_AT_ONCE]
            for offset in range(len(next(iter(block.values())))):
                row = {name: values[offset] for name, values in block.items()}
                number = start + offset + 1
                yield number, Conversation(checked(row, layout, self.where(number)))

    def report(self) -> Report:
        return Report()


def checked(row: dict[str, Any], layout: str, where: str) -> Messages:
    """The messages of a row of a table. Raises `BadInput`, naming `where`."""
    messages = columns.to_messages(row, layout, where)
    check_conversation(messages, where)
    return messages
