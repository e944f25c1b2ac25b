"""What a file is, by what is in it, whatever its name says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.files import cells, json_values, tables
from sft.data.files.cells import Dialect
from sft.data.files.opening import HEAD, as_utf8, opened
from sft.data.reading import Reading
from sft.errors import BadInput

UNITS = {
    "JSONL": "line",
    "CSV": "line",
    "TSV": "line",
    "JSON array": "item",
    "JSON objects": "item",
}
"""What a row's number counts; in tables rows."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what is needed to read it."""

    name: str
    compression: str | None = None
    encoding: str | None = None
    dialect: Dialect | None = None

    @property
    def unit(self) -> str:
        return UNITS.get(self.name, "row")

    def __str__(self) -> str:
        between = self.dialect.delimiter if self.dialect else ""
        text = self.name + (f" with '{between}'" if between in {";", "|"} else "")
        text += f" in {self.encoding}" if self.encoding else ""
        return text + (f" in {self.compression}" if self.compression else "")

    def reading(self, layout: str) -> Reading:
        return Reading(layout, filled=self.unit == "row", cells=self.dialect is not None)


def kind_of(path: Path) -> Kind:
    """What the file is. Raises `BadInput` if it is nothing that can be read."""
    with opened(path) as (stream, compression):
        head = stream.peek(8)
        for magic, name in tables.MAGIC.items():
            if head.startswith(magic):
                if compression:
                    raise BadInput(
                        f"dataset.path: {path} is {name} in {compression}; unpack it first"
                    )
                return Kind(name)
        text, encoding = as_utf8(stream, path)
        beginning = text.read(HEAD)
        whole = not text.read(1)
    found = _of_text(beginning, whole, _named_table(path))
    if found is None:
        raise BadInput(
            f"dataset.path: {path} is no file of chats that can be read: it "
            f"{_begins(beginning)}; expected JSON lines, a JSON array, CSV, TSV, Parquet or Arrow"
        )
    name, dialect = found
    return Kind(name, compression, encoding, dialect)


def _begins(head: bytes) -> str:
    first = head.strip().split(b"\n")[0][:40]
    try:
        text = first.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    return f"begins with {text!r}" if text.isprintable() and text else "holds no text"


def _named_table(path: Path) -> bool:
    """Whether the name is that of a CSV or TSV file, perhaps packed."""
    return any(suffix.lower() in (".csv", ".tsv") for suffix in path.suffixes[-2:])


def _of_text(head: bytes, whole: bool, named_table: bool) -> tuple[str, Dialect | None] | None:
    text = head.decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or "\0" in lines[0]:
        return None if lines else ("JSONL", None)  # an empty file
    first = lines[0].lstrip()[0]
    # A first cell may begin with "[", too; behind it an array of chats goes on with an object.
    if first == "[" and not (named_table and text.lstrip()[1:].lstrip()[:1] not in ("", "{", "]")):
        return ("JSONL" if _list_a_line(lines) else "JSON array"), None
    if first == "{":
        return ("JSON objects" if _over_several_lines(lines) else "JSONL"), None
    table = cells.dialect_of(text, whole)
    if table and cells.fits(table[1]):
        return cells.DELIMITERS.get(table[0].delimiter, "CSV"), table[0]
    if any(line.lstrip().startswith("{") for line in lines):  # a broken first line
        return "JSONL", None
    return table and (cells.DELIMITERS.get(table[0].delimiter, "CSV"), table[0])


def _list_a_line(lines: list[str]) -> bool:
    """Whether each line is an array of its own."""
    return len(lines) > 1 and lines[1].lstrip().startswith("[") and _is_json(lines[0])


def _over_several_lines(lines: list[str]) -> bool:
    """Whether the first object goes on beyond its line: {, and what begins no other object."""
    if len(lines) < 2 or lines[1].lstrip().startswith("{"):
        return False
    return not _is_json(lines[0])


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def rows(path: Path, kind: Kind, reading: Reading, where: Any) -> Iterator[tuple[int, Any]]:
    """The rows of a file with their numbers; a `BadInput` in place of one that cannot be read."""
    if kind.unit == "row":
        yield from tables.rows(path, kind.name, lambda present: reading.wanted(present, str(path)))
        return
    with opened(path) as (raw, _):
        stream, _ = as_utf8(raw, path)
        if kind.dialect is not None:
            yield from cells.rows(stream, kind.dialect, where)
        elif kind.name == "JSONL":
            yield from json_values.lines(stream, where)
        else:
            yield from json_values.values(stream, path, array=kind.name == "JSON array")
