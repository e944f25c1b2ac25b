"""A tracking store: is its URI usable, does it answer, and opening a fresh one without breaking it.

Only `Store.client` imports mlflow, for that takes seconds.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sft.config.schema import DEFAULT_EXPERIMENT, DEFAULT_URI
from sft.config.secrets import fill
from sft.config.shadows import check_working_folder
from sft.errors import BadInput, nearest
from sft.files import locked
from sft.secrets import mask_urls
from sft.service.proxies import exempt_loopback
from sft.tracking.moved_store import mend_moved

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
DATABASES = ("postgresql", "mysql", "mssql")
PACKAGES = {"psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'", "MySQLdb": "mysqlclient"}
"""What installs a database's driver, if that has another name than its module."""

STORES_MODULES = ("mlflow", "sqlalchemy", "sqlite3", "requests", "urllib3", "databricks")
"""Whose exceptions tell of a store that does not answer or refuses."""

PERMANENT = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""MLflow's codes for a request that no repetition will make acceptable."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts on a store that does not answer: doubling from first to longest."""

CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""How mlflow talks to a store, if the user has not said so in the environment.

By itself it repeats a request for up to a quarter of an hour, deaf to anything else; the writer
repeats it just as well. mlflow has no other way to be told.
"""


def tracking_uri(uri: str | None = None) -> str:
    """`uri`, or `MLFLOW_TRACKING_URI`, or the default of `tracking.uri`; whole.

    Raises `BadInput` if a masked `uri` cannot be filled in.
    """
    return fill(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI, "tracking.uri")


def experiment_name(name: str | None = None) -> str:
    """`name`, or `MLFLOW_EXPERIMENT_NAME`, or the default of `tracking.experiment`."""
    return name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def check_uri(uri: str) -> None:
    """Raise `BadInput` if `uri` can never be a tracking store. Nothing is made or contacted."""
    check_working_folder()
    scheme, separator, rest = uri.partition(":")
    dialect = scheme.partition("+")[0]
    if uri == "databricks":
        return
    if not separator or dialect == "file" or "/" in scheme:
        raise BadInput(
            f"tracking.uri: '{uri}' is not a tracking store; expected an MLflow server "
            "(http://host:port) or a database (sqlite:///mlflow.db). MLflow 3 no longer logs "
            "to plain folders. It is set by tracking.uri, or else by MLFLOW_TRACKING_URI"
        )
    if dialect not in SCHEMES:
        raise BadInput(
            f"tracking.uri: unknown scheme '{scheme}' in '{uri}'; expected one of "
            f"{', '.join(SCHEMES)}{nearest(dialect, list(SCHEMES))}"
        )
    if dialect == "sqlite":
        _check_sqlite(uri)
    else:
        _check_host(uri, rest)
        if dialect in DATABASES:
            _check_driver(uri, scheme)


def _check_driver(uri: str, scheme: str) -> None:
    """Ask SQLAlchemy for the driver that it would load: which one that is changes by version."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    dialect, _, driver = scheme.partition("+")
    try:
        make_url(uri).get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        module = getattr(error, "name", None) or driver
        raise BadInput(
            f"tracking.uri: {scheme} needs the Python module {module}; "
            f"pip install {PACKAGES.get(module, module)}, or name a driver that is there: "
            f"{dialect}+DRIVER://"
        ) from error
    except ArgumentError as error:
        raise BadInput(f"tracking.uri: '{uri}' names no database: {error}") from error


def _check_host(uri: str, rest: str) -> None:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(f"tracking.uri: '{uri}' is not a URL: {error}") from None
    if not rest.startswith("//") or (not host and parts.scheme != "databricks"):
        raise BadInput(f"tracking.uri: '{uri}' names no host; expected http://host:port")
    if re.search(r"\s", uri):
        raise BadInput("tracking.uri: has a space in it")


def _check_sqlite(uri: str) -> None:
    file = sqlite_file(uri)
    if file is None:
        raise BadInput(
            f"tracking.uri: '{uri}' names no file; expected sqlite:///mlflow.db "
            "(three slashes and a path; four where it is absolute)"
        )
    if file.is_dir():
        raise BadInput(f"tracking.uri: {file} is a folder; name a file in it, such as mlflow.db")
    if file.exists():
        try:
            with file.open("r+b") as opened:
                head = opened.read(16)
        except OSError as error:
            raise BadInput(f"tracking.uri: {file} cannot be written: {error.strerror}") from None
        if head and head != b"SQLite format 3\0":
            raise BadInput(f"tracking.uri: {file} is not an SQLite database")
    folder = file.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"tracking.uri: {file} cannot be made: {folder} is not a writable folder")


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of an `sqlite:///` database; None for any other URI or one in memory."""
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    if not match or ":memory:" in uri:
        return None
    return Path(match[1]).absolute()


def absolute(uri: str) -> str:
    """`uri`, with the path of an SQLite database independent of the working directory."""
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}"


def is_the_stores(error: BaseException) -> bool:
    """Whether an error came from the store or the way to it, and not from code in this process."""
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or module in STORES_MODULES


def cause_of(error: BaseException) -> BaseException:
    """What made a request fail, where `error` tells of the connections that it was tried over."""
    while "(host=" in str(error) and (within := error.__cause__ or error.__context__):
        error = within
    return error


def is_permanent(error: Exception) -> bool:
    """Whether MLflow will refuse the same request again, so trying later is no use."""
    return getattr(error, "error_code", None) in PERMANENT


class Store:
    """One tracking store of this process, and whether it answers. Used by one thread."""

    def __init__(self, uri: str):
        self.uri = absolute(uri)
        self.failures = 0
        """Attempts in a row that failed."""
        self.error: str | None = None
        self.is_at_fault = True
        """Whether the last failure was the store's own."""
        self._retry_at = 0.0
        self._client: MlflowClient | None = None

    @property
    def waits(self) -> float:
        """Seconds until the store may be tried again."""
        return max(0.0, self._retry_at - time.monotonic())

    def failed(self, error: BaseException) -> None:
        """The store did not answer: leave it alone for a while."""
        delay = min(FIRST_DELAY * 2.0**self.failures, LONGEST_DELAY)
        self.failures += 1
        self.is_at_fault = is_the_stores(error)
        text, kind = str(cause_of(error)).strip(), type(error).__name__
        words = text if text and self.is_at_fault else f"{kind}: {text}" if text else kind
        self.error = mask_urls(words.splitlines()[0])[:300]
        self._retry_at = time.monotonic() + delay

    def answered(self) -> None:
        self.failures, self.error, self._retry_at = 0, None, 0.0

    def hurry(self) -> None:
        """Try again at once, however long ago the last attempt was."""
        self._retry_at = 0.0

    def client(self) -> MlflowClient:
        """The client, opened at first use. Raises if the store does not answer.

        A server is knocked at before every use: a refused connection is known at once.
        """
        parts = urlsplit(self.uri)
        if parts.scheme in ("http", "https") and parts.hostname:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname, port), timeout=5).close()
        if self._client is None:
            if (file := sqlite_file(self.uri)) is not None and _has_tables(file):
                mend_moved(file)
            self._client = open_client(self.uri)
        return self._client

    def artifact_location(self, experiment: str) -> str | None:
        """Where a new experiment keeps its artifacts: beside the database, by absolute path.

        None for a server, which has a place of its own.
        """
        if urlsplit(self.uri).scheme in ("http", "https", "databricks", ""):
            return None
        file = sqlite_file(self.uri)
        folder = (file.parent if file else Path.cwd()) / "mlartifacts"
        return (folder / re.sub(r"[^\w.-]+", "_", experiment)).as_uri()


def open_client(uri: str) -> MlflowClient:
    """An `MlflowClient` of the store at `uri` alone; a fresh SQLite store is made first, whole."""
    file = sqlite_file(uri)
    if file is not None:
        _make_sqlite(file)
    for name, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    exempt_loopback(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_sqlite(file: Path) -> None:
    """Make the database under a file lock and another name, and move it into place when done.

    mlflow migrates a fresh database for a second or two without a lock: two processes that do so
    together, or one killed meanwhile, leave it broken.
    """
    if _has_tables(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f"{file.name}.lock")):
        if _has_tables(file):
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        new = file.with_name(f"{file.name}.new")
        new.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"sqlite:///{new}", (file.parent / "mlartifacts").as_uri())
        store.engine.dispose()
        SqlAlchemyStore._engine_map.pop(store.db_uri, None)
        new.replace(file)


def _has_tables(file: Path) -> bool:
    if not file.exists() or file.stat().st_size == 0:
        return False
    # Not read-only: what a killed process left half written has to be rolled back first.
    connection = sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=20)
    try:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    finally:
        connection.close()


def be_quiet_in_this_thread() -> None:
    """Keep mlflow and urllib3 from printing what this thread's attempts meet: it is reported once.

    Other threads' messages stay as they are.
    """
    import threading

    from mlflow.utils.logging_utils import should_suppress_logs_in_thread

    should_suppress_logs_in_thread.set(True)
    thread = threading.get_ident()
    logging.getLogger("urllib3.connectionpool").addFilter(lambda record: record.thread != thread)
