"""Where a study lives, and what it remembers of the sweep that began it.

By default it is outputs/sweeps/STUDY/study.journal, one JSON object a line; else any Optuna storage
by URL. The run directories of its trials lie in outputs/sweeps/STUDY in both cases, by number.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection

from sft.config.secrets import fill
from sft.errors import BadInput
from sft.files import locked

ROOT = Path("outputs/sweeps")
JOURNAL = "study.journal"
FACTS = "sweep"  # the study's user attribute that holds what it remembers
ASKED = "asked"
"""The study's user attribute that says how it goes on: `words` of the command, `trials` that it is
to have, whether these are all of a `grid`; and `OVER`, once its scheduler is through."""
OVER = "over"
ATTEMPTS = 20  # at a database in which another process makes the same tables


class FileLock(BaseJournalFileLock):
    """Serialises writers with flock, which the kernel releases however a process ends.

    Optuna's own locks are files that a killed process leaves behind, for half a minute. A line
    that a killed writer left unfinished is cut off before the next one is written.
    """

    def __init__(self, journal: Path):
        self._journal = journal
        self._file: TextIO | None = None

    def acquire(self) -> bool:
        self._file = open(f"{self._journal}.lock", "a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._cut_unfinished_line()
        return True

    def release(self) -> None:
        assert self._file is not None  # acquired
        self._file.close()

    def _cut_unfinished_line(self) -> None:
        if not self._journal.exists():
            return
        with open(self._journal, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            keep = end
            while keep:
                start = max(0, keep - 4096)
                file.seek(start)
                newline = file.read(keep - start).rfind(b"\n")
                if newline >= 0:
                    keep = start + newline + 1
                    break
                keep = start
            if keep < end:
                file.truncate(keep)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at an Optuna URL, or the journal in `folder`. Raises `BadInput`."""
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / JOURNAL
        return JournalStorage(JournalFileBackend(str(journal), FileLock(journal)))
    url = fill(url, "hydra.sweeper.storage")
    try:
        return _open_database(url)
    except ImportError as error:
        raise BadInput(
            f"hydra.sweeper.storage={url}: its driver is not installed "
            f"({error}); pip install {_driver(url)}."
        ) from error
    except Exception as error:  # SQLAlchemy's, by driver
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"hydra.sweeper.storage={url}: cannot be opened ({reason}); "
            "expected an Optuna storage URL such as sqlite:///studies.db or "
            "postgresql://USER@HOST/DATABASE."
        ) from error


def _open_database(url: str) -> BaseStorage:
    """Optuna makes the tables that it does not find; another process may be making them too."""
    from sqlalchemy.exc import DBAPIError, IntegrityError  # a journal needs none of it

    failures = 0
    while True:
        try:
            return optuna.storages.get_storage(url)
        except DBAPIError as error:
            failures += 1
            made = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not made or failures == ATTEMPTS:
                raise
        time.sleep(0.05)


@contextmanager
def opening(url: str | None, folder: Path) -> Iterator[None]:
    """Hold this while a study is opened and until others can see who works on it.

    A journal that takes a wider space becomes a new file: nobody may have opened the old one then.
    """
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "open.lock") if url is None else nullcontext():
        yield


def open_study(
    name: str,
    storage: BaseStorage,
    directions: list[str],
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
) -> optuna.Study:
    """The study called `name`, made if there is none.

    Raises `BadInput` if it exists with other directions.
    """
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[StudyDirection[direction.upper()] for direction in directions],
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )
    there = [direction.name.lower() for direction in study.directions]
    if there != directions:
        raise BadInput(
            f"hydra.sweeper.study_name={name}: the study has direction {', '.join(there)}, the "
            f"sweep {', '.join(directions)}; name another study."
        )
    return study


def load_study(word: str, url: str | None = None, root: Path = ROOT) -> tuple[optuna.Study, Path]:
    """An existing study by name or folder, and the folder of its trials. Raises `BadInput`."""
    folder = Path(word) if Path(word).is_dir() else root / word
    name = folder.name
    if url is None and not (folder / JOURNAL).exists():
        known = sorted(p.parent.name for p in root.glob(f"*/{JOURNAL}"))
        raise BadInput(
            f"{word}: no study of that name under {root}; there "
            + (f"are {', '.join(known)}." if known else "are none. With a URL, add --storage.")
        )
    try:
        return optuna.load_study(study_name=name, storage=open_storage(url, folder)), folder
    except KeyError as error:
        raise BadInput(f"{word}: the storage {url or folder} holds no study '{name}'.") from error


def existing(name: str, url: str | None, folder: Path) -> optuna.Study | None:
    """The study called `name`; None if there is none yet. Makes nothing.

    What cannot be opened is said when the study is.
    """
    if not ((folder / JOURNAL).exists() if url is None else _holds_studies(url)):
        return None
    try:
        return optuna.load_study(study_name=name, storage=open_storage(url, folder))
    except KeyError:
        return None


def _holds_studies(url: str) -> bool:
    """Whether the database at `url` has Optuna's tables."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(fill(url, "hydra.sweeper.storage"))
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
            return False  # to look would make it
        try:
            return inspect(engine).has_table("studies")
        finally:
            engine.dispose()
    except (ImportError, SQLAlchemyError):
        return False


def remember(study: optuna.Study, facts: dict[str, Any]) -> None:
    """Write down what the sweep is about, or refuse to go on if it was about something else.

    Raises `BadInput` that shows each difference.
    """
    known = study.user_attrs.get(FACTS)
    if known is None:
        study.set_user_attr(FACTS, facts)
        return
    different = [
        f"{key} was {_short(known.get(key))}, now {_short(facts.get(key))}"
        for key in dict.fromkeys([*known, *facts])
        if known.get(key) != facts.get(key)
    ]
    if different:
        of_space = {**known, "space": None} == {**facts, "space": None}
        wider = ", or take a wider space with hydra.sweeper.extend=true" if of_space else ""
        raise BadInput(
            f"hydra.sweeper.study_name={study.study_name}: the study is about something else: "
            f"{'; '.join(different)}. Name another study, or go on as it began{wider}."
        )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return "not set" if value is None else str(value)


def _driver(url: str) -> str:
    dialect = url.partition(":")[0]
    if "+" in dialect:
        return dialect.partition("+")[2]
    return {"postgresql": "psycopg2-binary", "mysql": "mysqlclient"}.get(dialect, dialect)
