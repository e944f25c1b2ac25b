"""Where conversations come from: files, or a dataset that `datasets` has loaded."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data.files import kinds
from sft.data.files.finding import files_of
from sft.data.files.inventory import digest_of
from sft.data.files.kinds import Kind
from sft.data.files.tables import ROWS_AT_ONCE
from sft.data.other_data import MEDIA
from sft.data.reading import Numbered, Reader, Reading
from sft.rendering.report import Report
from sft.tokens.chunks import ALL_TRAINED

if TYPE_CHECKING:
    import datasets

FILE_BITS = 40
"""A row's number holds in the bits from here on which of several files it is of."""


@dataclass
class ChatFiles:
    """One file, a folder or a pattern of files; what each is is found by its content.

    A row's number is that of its line, of its item in a JSON array or of its row in a table. With
    several files it also says which of them it is of: see `line`.
    """

    path: str
    layout: str = "auto"
    """One of `sft.data.layouts.LAYOUTS`, or `auto`: what each file's columns say."""
    on_bad_line: str = "refuse"
    """`skip`: leave out what is no conversation, and count it."""
    spans: tuple[tuple[int, int], ...] = ()
    """Only these rows, counted from 0 through all files, the end not included; empty: all."""
    chosen: tuple[list[Path], list[str]] | None = None
    """The files to read, and the names of others beside them; None: see `files_of`."""
    _report: Report = field(default_factory=Report)

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def _found(self) -> tuple[list[Path], list[str]]:
        return self.chosen or files_of(self.path)

    @property
    def files(self) -> list[Path]:
        return self._found[0]

    @cached_property
    def _kinds(self) -> list[Kind]:
        return [kinds.kind_of(file) for file in self.files]

    def line(self, number: int) -> int:
        """The number of a row within its own file."""
        return number & ((1 << FILE_BITS) - 1)

    def where(self, number: int) -> str:
        index = number >> FILE_BITS
        return f"{self.files[index]} {self._kinds[index].unit} {self.line(number)}"

    def key(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(bytes.fromhex(digest_of(file)))
        return f"{digest.hexdigest()} {self.layout} {self.on_bad_line} {self.spans}"

    def conversations(self) -> Iterator[Numbered]:
        for reader in self.readers():
            yield from reader

    def rows(self) -> Iterator[Numbered]:
        """Every row, also those that `conversations` leaves out and counts."""
        for reader in self.readers():
            yield from reader.every()

    def count(self) -> int:
        """How many rows there are; none of them is converted."""
        files = enumerate(zip(self.files, self._kinds, strict=True))
        return sum(
            sum(1 for _ in self._numbered(index, file, kind, kind.reading(self.layout)))
            for index, (file, kind) in files
        )

    def report(self) -> Report:
        return self._report

    def readers(self) -> Iterator[Reader]:
        """That of each file, one after another."""
        self._report = Report()
        layouts: dict[str, None] = {}
        counted = itertools.count()
        for index, (file, kind) in enumerate(zip(self.files, self._kinds, strict=True)):
            reading = kind.reading(self.layout)
            rows = self._numbered(index, file, kind, reading)
            if self.spans:
                rows = (row for row in rows if self._inside(next(counted)))
            skip = self.on_bad_line == "skip"
            yield Reader(rows, self.where, reading, skip, self._report)
            if reading.layout != "auto":  # a file without rows
                layouts[reading.layout] = None
        self._report.found = self._what(", ".join(layouts))

    def _inside(self, row: int) -> bool:
        return any(start <= row < end for start, end in self.spans)

    def _numbered(
        self, index: int, file: Path, kind: Kind, reading: Reading
    ) -> Iterator[tuple[int, Any]]:
        first = index << FILE_BITS
        rows = kinds.rows(file, kind, reading, lambda number: self.where(first + number))
        return ((first + number, row) for number, row in rows) if index else rows

    def _what(self, layouts: str) -> str:
        files, others = self._found
        what = ", ".join(dict.fromkeys(map(str, self._kinds)))
        what = f"{len(files)} files: {what}" if len(files) > 1 else what
        what = f"{what}, layout {layouts}"
        if "text" in layouts.split(", "):
            what += f" (raw text: {ALL_TRAINED})"
        return f"{what}; files not read: {', '.join(others)}" if others else what


@dataclass
class Rows:
    """The rows of a `datasets.Dataset`, read in blocks: it stays on disk."""

    dataset: datasets.Dataset
    name: str
    layout: str = "auto"
    _report: Report = field(default_factory=Report)

    def where(self, number: int) -> str:
        return f"{self.name} row {number}"

    def key(self) -> str:
        # Of the dataset's content and history, as `datasets` itself names its caches.
        return f"{self.dataset._fingerprint} {len(self.dataset)} {self.layout}"

    def conversations(self) -> Iterator[Numbered]:
        yield from self._reader()

    def rows(self) -> Iterator[Numbered]:
        """Every row, also those that `conversations` leaves out and counts."""
        return self._reader().every()

    def report(self) -> Report:
        return self._report

    def _reader(self) -> Reader:
        reading = Reading(self.layout, filled=True)
        wanted = reading.wanted(self.dataset.column_names, self.name)
        self._report = Report(found=f"read with datasets, layout {reading.layout}")
        return Reader(self._blocks(wanted), self.where, reading, report=self._report)

    def _blocks(self, wanted: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        # Images and sounds are not decoded: it only matters whether there are any.
        media = self.dataset.select_columns([n for n in wanted if n in MEDIA]).with_format("arrow")
        rows = self.dataset.select_columns([n for n in wanted if n not in MEDIA]).with_format(None)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = rows[start : start + ROWS_AT_ONCE]
            if media.column_names:
                block |= media[start : start + ROWS_AT_ONCE].to_pydict()
            for offset in range(len(next(iter(block.values())))):
                yield start + offset + 1, {name: values[offset] for name, values in block.items()}
