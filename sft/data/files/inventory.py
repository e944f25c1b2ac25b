"""What a path names on this machine: how many files, how large, with what digest and rows.

A run records it, so that its data can be told from other data of the same name, and be kept.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from sft.data.files import kinds
from sft.data.files.finding import ABOUT, has_wildcard, is_pattern
from sft.data.files.opening import as_it_is, opened
from sft.errors import BadInput

MOST_OF_A_STREAM = 1_000_000_000
"""Bytes. Data is read whole anyway to train on it; a stream larger than this is not."""


@dataclass(frozen=True)
class Inventory:
    """The files that a path names."""

    path: str
    inside: str
    """What the path says behind the folder that all files lie in; see `inside`."""
    files: int
    bytes: int
    sha256: str | None = None
    """Of the one file, or of the names and digests of all; None: too much to read."""
    rows: int | None = None
    """None if nobody can tell: too much to read, or files of other kinds among them."""


def take(path: str, whole: bool = True) -> Inventory | None:
    """What `path` names; None if it is no place on this machine. Raises `BadInput`.

    What is not read whole to train on it is not read for this either if it is too large.
    """
    found = members(path)
    if not found:
        return None
    size = sum(file.stat().st_size for file in found.values())
    if not whole and size > MOST_OF_A_STREAM:
        return Inventory(path, inside(path), len(found), size)
    return Inventory(path, inside(path), len(found), size, digest(found), _rows(found))


def members(path: str) -> dict[str, Path]:
    """The files that `path` names by their names below `root(path)`; empty if there are none."""
    place = Path(path).expanduser()
    if is_pattern(path):
        files = [Path(match) for match in glob.glob(str(place), recursive=True)]
    elif place.is_dir():
        files = [file for file in place.rglob("*") if not _is_hidden(file.relative_to(place))]
    else:
        files = [place]
    above = root(path)
    return {file.relative_to(above).as_posix(): file for file in sorted(files) if file.is_file()}


def root(path: str) -> Path:
    """The folder that all files of `path` lie in."""
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    return Path(*place.parts[: len(place.parts) - len(Path(inside(path)).parts)])


def inside(path: str) -> str:
    """What `path` says behind that folder: the name of a file, the end of a pattern, or nothing.

    >>> inside("data/chats.jsonl"), inside("data/2026-*/part?.csv")
    ('chats.jsonl', '2026-*/part?.csv')
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return ""
    wild = [index for index, part in enumerate(place.parts) if has_wildcard(part)]
    if wild and not place.exists():
        return str(Path(*place.parts[wild[0] :]))
    return place.name


def digest(files: dict[str, Path]) -> str:
    """The SHA-256 of the only file, or of the names and digests of all."""
    found = {name: digest_of(file) for name, file in files.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    text = "".join(f"{one}  {name}\n" for name, one in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(file: Path) -> str:
    """The SHA-256 of a file. One that has not changed is read once a process."""
    try:
        state = file.stat()
    except OSError:
        as_it_is(file).close()  # says what is wrong
        raise
    return _digest(os.path.abspath(file), state.st_size, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=10_000)
def _digest(file: str, *state: int) -> str:
    with as_it_is(Path(file)) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rows(files: dict[str, Path]) -> int | None:
    """The rows of all files that are data."""
    data = [file for name, file in files.items() if Path(name).name not in ABOUT]
    try:
        return sum(map(_rows_of, data))
    except BadInput:
        return None


def _rows_of(file: Path) -> int:
    """How many rows a file has; where that is quick, without making any of them."""
    kind = kinds.kind_of(file)
    if kind.name == "JSONL" and kind.encoding is None:
        with opened(file) as (stream, _):
            return sum(not line.isspace() for line in stream)
    if kind.name == "Parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(file).num_rows)
    return sum(1 for _ in kinds.rows(file, kind, kind.reading("auto"), str))


def _is_hidden(inside: Path) -> bool:
    return any(part.startswith(".") for part in inside.parts)
