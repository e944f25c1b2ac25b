"""CSV and TSV: every cell is the text of the file."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from sft.data.files.json_values import NULS
from sft.data.layouts import LAYOUTS
from sft.errors import BadInput

DELIMITERS = {",": "CSV", ";": "CSV", "\t": "TSV", "|": "CSV"}
SPACE_BEFORE_QUOTES = re.compile(r' +".*"$', re.DOTALL)
"""A cell that seems to be in quotes, of which it still has both."""
SAMPLE = 50
"""Rows that are looked at to find out what stands between cells."""

CONVERT = (
    "; save the file as UTF-8, in a spreadsheet as 'CSV UTF-8', or with `iconv -f WINDOWS-1252 -t "
    "UTF-8 OLD > NEW` if it is in the encoding of Windows or Latin-1"
)


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart."""

    delimiter: str
    quoted: bool = True
    """Whether a cell may stand in quotes. In some TSV files a quote is a letter like others."""
    spaced: bool = False
    """Whether spaces between a delimiter and a quote are no part of the cell."""
    told: bool = False
    """Whether the first line says the delimiter, as Excel wants it: `sep=;`."""

    def reader(self, lines: Iterator[str]) -> Any:
        # A process has one limit for all. By default a cell holds 131,072 characters at most.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        # strict: a quote in the middle of a cell is an error, and not left out.
        if self.quoted:
            return csv.reader(
                lines, delimiter=self.delimiter, strict=True, skipinitialspace=self.spaced
            )
        return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)


def names_of(header: list[str]) -> list[str]:
    """The columns' names; one without a name is called by its number."""
    return [name.strip() or f"column {i}" for i, name in enumerate(header, start=1)]


def fits(names: list[str]) -> bool:
    """Whether columns of these names are those of a layout."""
    return any(layout.names(names) is not None for layout in LAYOUTS.values())


def dialect_of(head: str, whole: bool) -> tuple[Dialect, list[str]] | None:
    """How the beginning of a file is written, and its columns; None if it is no table.

    The best is what gives columns of a layout, then what gives rows of one length, then what
    gives the most columns. `whole` says that `head` is not cut off.
    """
    best: tuple[tuple[Any, ...], Dialect, list[str]] | None = None
    told = re.match(r'"?sep=(.)"?\r?\n', head)
    if told:
        head = head[told.end() :]
    for delimiter in [told[1]] if told else DELIMITERS:
        for quoted, spaced in ((True, False), (True, True), (False, False)):
            if not quoted and delimiter != "\t":
                continue
            dialect = Dialect(delimiter, quoted, spaced, bool(told))
            rows, sound = _sample(dialect, head, whole)
            if not rows:
                continue
            names = names_of(rows[0])
            even = sum(len(row) == len(names) for row in rows) / len(rows)
            clean = not any(SPACE_BEFORE_QUOTES.match(cell) for row in rows for cell in row)
            score = (fits(names), sound, even, len(names), clean, quoted, not spaced)
            if (fits(names) or len(names) > 1) and (best is None or score > best[0]):
                best = score, dialect, names
    return best and (best[1], best[2])


def _sample(dialect: Dialect, head: str, whole: bool) -> tuple[list[list[str]], bool]:
    """The first rows, and whether all of them can be read."""
    lines = head.split("\n")
    kept = [f"{line}\n" for line in lines[: None if whole else -1]]
    rows: list[list[str]] = []
    try:
        for row in dialect.reader(iter(kept)):
            if row:
                rows.append(row)
            if len(rows) == SAMPLE:
                break
    except csv.Error as error:
        return rows, not whole and "end of data" in str(error)
    return rows, True


def rows(
    stream: IO[bytes], dialect: Dialect, where: Callable[[int], str]
) -> Iterator[tuple[int, Any]]:
    """Each row by the names of the columns, with the line on which it begins.

    Raises `BadInput` if the first line does not name each column once.
    """
    lines = _Lines(stream)
    reader = dialect.reader(lines)
    names: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            through = f" to {reader.line_num}" if reader.line_num > number else ""
            yield number, BadInput(f"{where(number)}{through}: not CSV: {_reason(error)}")
            continue
        if lines.error:
            wrong = BadInput(f"{where(number)}: not UTF-8: {lines.error.reason}{CONVERT}")
            lines.error = None
            if not names:
                raise wrong
            yield number, wrong
        elif not row or (dialect.told and number == 1):
            continue
        elif any("\0" in cell for cell in row):
            yield number, BadInput(f"{where(number)}: {NULS}")
        elif not names:
            names = names_of(row)
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise BadInput(f"{where(number)}: names the column '{twice[0]}' twice")
        elif len(row) != len(names):
            count = (
                f"{len(row)} cell{'s' * (len(row) != 1)}; the first line names {len(names)} columns"
            )
            yield number, BadInput(f"{where(number)}: has {count}")
        else:
            yield number, dict(zip(names, row, strict=True))


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text:
        return "a quote is opened and never closed"
    if "new-line" in text:
        return "a carriage return within a cell that is not in quotes"
    if "expected after" in text:
        return f"{text}; put the cell in quotes and write each quote in it twice"
    return text


class _Lines:
    """The lines of a stream as text. `error` is that of a line which is not UTF-8."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self.error: UnicodeDecodeError | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.error = error
            return line.decode("utf-8", "replace")
