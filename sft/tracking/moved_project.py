"""Where things lie of a run whose project was moved, or that is named from another folder.

A project is a working folder: run directories, the local service's folder and mlflow.db lie in it
and name each other by relative paths, or by absolute ones that a move makes wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sft.errors import BadInput
from sft.record.rundir import read_facts
from sft.tracking.store import sqlite_file

if TYPE_CHECKING:
    from sft.config.schema import Settings


def home(directory: Path, settings: Settings) -> Path:
    """The working folder that the relative paths of the run in `directory` are meant from.

    Raises `BadInput` if the folder of the run's local service is nowhere, though the run has
    checkpoints: a service on an empty folder would begin again.
    """
    directory = directory.absolute()
    then = Path(read_facts(directory).get("working_directory") or Path.cwd())
    inside = [then] if directory.is_relative_to(then) else []  # else it was moved, or is elsewhere
    places = [*inside, *directory.parents, then, Path.cwd()]
    is_local = settings.service.kind == "local"
    mark = settings.service.root if is_local else _file_of(settings.tracking.uri or "")
    for place in places:
        if mark and (place / mark).exists():
            return place
    checkpoints = directory / "checkpoints.jsonl"
    if is_local and checkpoints.exists() and checkpoints.stat().st_size:
        raise BadInput(
            f"service.root: the run's checkpoints were in {then / settings.service.root}, and no "
            f"such folder is there, beside {directory} or here; bring it back, or move it to "
            f"{Path.cwd() / settings.service.root}"
        )
    return then if then.is_dir() else Path.cwd()


def _file_of(uri: str) -> str | None:
    """The path of an SQLite store as it is written in `uri`."""
    return uri.partition(":///")[2] if sqlite_file(uri) else None


def store(directory: Path, uri: str) -> str:
    """`uri`, or the SQLite store of that name in a folder around `directory` if it moved there."""
    file = sqlite_file(uri)
    if file is None or file.exists():
        return uri
    for folder in directory.absolute().parents:
        if (folder / file.name).is_file():
            return f"sqlite:///{folder / file.name}"
    return uri


def run_directory(named: Path, store_uri: str) -> Path | None:
    """`named`, or the folder of the same place in the project that an SQLite store lies in now."""
    file = sqlite_file(store_uri)
    if named.is_dir() or file is None:
        return named
    for start in range(1, len(named.parts)):
        here = file.parent.joinpath(*named.parts[start:])
        if (here / "config.yaml").is_file():
            return here
    return None
