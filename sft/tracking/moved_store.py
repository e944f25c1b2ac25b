"""A tracking database that was moved or copied with its files: where they lie now."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sft.files import locked

ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)
"""Where MLflow's database holds absolute paths of files."""


def mend_moved(file: Path) -> None:
    """Give a database that was moved together with its `mlartifacts` the new place of its files.

    MLflow writes to and reads from the absolute path that an experiment, a run or a model had when
    it was made. What lay in another folder `mlartifacts` is rewritten if there is one beside the
    database, and the other is gone or this one holds its runs: a copy is a project of its own.
    """
    here = file.parent / "mlartifacts"
    if not here.is_dir():
        return
    with locked(file.with_name(f"{file.name}.lock")):
        connection = sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=20)
        try:
            with connection:
                columns = [c for c in ARTIFACT_COLUMNS if _has_column(connection, *c)]
                roots = {root for c in columns for root in _artifact_roots(connection, *c)}
                moved = [root for root in roots if _has_moved(connection, root, here)]
                for root in moved:
                    for table, column in columns:
                        _move(connection, table, column, root, f"{here.as_uri()}/")
        finally:
            connection.close()


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    """Whether MLflow's schema, which changes by version, has it."""
    return column in {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}


def _artifact_roots(connection: sqlite3.Connection, table: str, column: str) -> set[str]:
    """`file:///old/mlartifacts/` of each URI below such a folder."""
    uris = [uri or "" for (uri,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}")]
    heads = [uri.rpartition("/mlartifacts/")[:2] for uri in uris if uri.startswith("file:")]
    return {head + found for head, found in heads if found}


def _has_moved(connection: sqlite3.Connection, root: str, here: Path) -> bool:
    """Whether what the store places below `root` lies in `here`: the folder there is gone, or the
    files of one of its runs are here."""
    place = Path(unquote(urlsplit(root).path))
    if place.resolve() == here.resolve():
        return False
    query = "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?"
    uris = connection.execute(query, (len(root), root))
    return not place.exists() or any((here / unquote(uri[len(root) :])).is_dir() for (uri,) in uris)


def _move(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
        (new, len(old) + 1, len(old), old),
    )
