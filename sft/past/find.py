"""Finding a run by the word that a user gives for it, on this machine or in MLflow alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sft.config.secrets import fill
from sft.errors import BadInput
from sft.files import read_yaml
from sft.past.registry import is_registered, look_up
from sft.past.short import by_short_word
from sft.record.examples import FOLDER as EXAMPLES
from sft.record.examples import Kept, last_examples
from sft.record.metrics import read
from sft.record.rundir import BATCHES_FILE, read_facts
from sft.record.system_metrics import PREFIX as SYSTEM
from sft.secrets import mask_urls
from sft.tracking import moved_project
from sft.tracking.store import (
    DEFAULT_URI,
    absolute,
    check_uri,
    open_client,
    sqlite_file,
    tracking_uri,
)
from sft.tracking.tracked_run import STATE_FILE, read_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEPS = Path("outputs", "sweeps")
WORDS = (
    "a run directory, the beginning of its name, last, an MLflow run id, runs:/ID, STUDY/NUMBER "
    "for a sweep's trial, or models:/NAME@ALIAS for a registered model"
)
MAX_CONFIG_BYTES = 5_000_000
MAX_BATCHES_BYTES = 500_000_000


@dataclass
class Found:
    """A run, by its directory if that is on this machine, and by its MLflow run otherwise."""

    word: str
    directory: Path | None = None
    uri: str | None = None
    run_id: str | None = None
    config: Path | None = None
    """A bare config.yaml: a run to be, without a past."""
    state_path: str | None = None
    """The checkpoint's, if the word is that of a registered model."""

    @property
    def is_own(self) -> bool:
        """Whether the config was written by a run on this machine, and so by its user."""
        return self.directory is not None

    @property
    def name(self) -> str:
        """What other runs call this one: its MLflow run id, or else its place."""
        return self.run_id or str(self.directory or self.config)

    @property
    def _file(self) -> Path | None:
        """The config on this machine."""
        return self.config or (self.directory and self.directory / "config.yaml")

    @property
    def source(self) -> str:
        """Where the config comes from, for messages."""
        if file := self._file:
            return str(file)
        return f"config.yaml of run {self.run_id} in {mask_urls(self.uri or '')}"

    def saved(self) -> dict[str, Any]:
        """The saved config, as plain data. Raises `BadInput`."""
        if file := self._file:
            return read_yaml(file)
        return self._artifact("config.yaml", read_yaml) or {}

    def facts(self) -> dict[str, Any]:
        """What run.json and mlflow.json say; empty if there is none."""
        if self.directory:
            return read_state(self.directory).get("facts", {}) | read_facts(self.directory)
        if self.config:
            return {}
        facts = self._artifact("run.json", lambda path: json.loads(path.read_text())) or {}
        tags = self.client().get_run(self.run_id).data.tags
        return {"digest": tags.get("sft.data_digest"), "status": tags.get("sft.status")} | facts

    def rows(self) -> list[dict[str, Any]]:
        """One mapping a step, as in metrics.jsonl, sorted by step.

        From MLflow the value that was logged last counts, if a resumed run measured a step
        twice.
        """
        if self.directory:
            return read(self.directory / "metrics.jsonl")
        if self.config:
            return []
        client = self.client()
        rows: dict[int, dict[str, Any]] = {}
        for name in client.get_run(self.run_id).data.metrics:
            if name.startswith(SYSTEM):
                continue  # their steps are others
            history = client.get_metric_history(self.run_id, name)
            for metric in sorted(history, key=lambda m: m.timestamp):
                row = rows.setdefault(metric.step, {"step": metric.step, "timestamp": 0})
                row[name] = metric.value
                row["timestamp"] = max(row["timestamp"], metric.timestamp)
        return [rows[step] for step in sorted(rows)]

    def examples(self, rows: Sequence[Mapping[str, Any]]) -> Kept:
        """What the last value of each metric in `rows` is made of, if its examples are kept."""
        if self.directory is not None or self.config is not None:
            return last_examples(self.directory, rows) if self.directory else Kept()
        if not 0 < sum(self.kept(EXAMPLES).values()) < MAX_BATCHES_BYTES:
            return Kept()
        with tempfile.TemporaryDirectory() as folder:
            self.download(EXAMPLES, Path(folder))
            return last_examples(Path(folder), rows)

    def batches(self) -> dict[int, str]:
        """The digest of what each step was trained on, by step; empty if none is recorded."""
        if self.directory:
            rows = read(self.directory / BATCHES_FILE)
        elif self.config:
            rows = []
        else:
            rows = self._artifact(BATCHES_FILE, read, MAX_BATCHES_BYTES) or []
        return {row["step"]: row["digest"] for row in rows}

    def client(self) -> MlflowClient:
        """The client of the run's MLflow store. Raises `BadInput` if its secret is nowhere."""
        return open_client(fill(self.uri or DEFAULT_URI, "tracking.uri"))

    def kept(self, folder: str) -> dict[str, int]:
        """The run's artifacts below `folder` and their bytes; empty if there are none."""
        store, found, folders = self._artifacts(), {}, [folder]
        while folders:
            for file in store.list_artifacts(folders.pop()):
                if file.is_dir:
                    folders.append(file.path)
                else:
                    found[str(file.path)] = int(file.file_size or 0)
        return found

    def download(self, name: str, folder: Path) -> Path:
        """Bring the artifact `name` to its place below `folder`."""
        return Path(self._artifacts().download_artifacts(name, str(folder)))

    def _artifacts(self) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self.client().get_run(self.run_id).info.artifact_uri
        return get_artifact_repository(moved(uri, self.uri or DEFAULT_URI), self.uri)

    def _artifact(self, name: str, read: Any, limit: int = MAX_CONFIG_BYTES) -> Any:
        """What `read` makes of the run's artifact `name`; None if it has none."""
        store = self._artifacts()
        files = {file.path: file for file in store.list_artifacts()}
        if name not in files:
            if name == "config.yaml":
                raise BadInput(f"{self.word}: the MLflow run has no config.yaml among its files")
            return None
        if (files[name].file_size or 0) > limit:
            raise BadInput(f"{self.source}: {name} has more than {limit} bytes")
        with tempfile.TemporaryDirectory() as folder:
            try:
                return read(Path(store.download_artifacts(name, folder)))
            except BadInput as error:
                raise BadInput(str(error).replace(folder + os.sep, f"{self.word}: ")) from None


def find(word: str, uri: str | None = None) -> Found:
    """The run that `word` names: a directory, the beginning of a name, `last`, a config.yaml, a run
    id, `runs:/ID`, `STUDY/NUMBER`, or a registered model, which is made from a checkpoint of it.

    `uri` is the MLflow store in which ids and trials are looked up (default:
    `MLFLOW_TRACKING_URI`, then the default of `tracking.uri`). A run whose directory is on this
    machine is taken from there. Raises `BadInput`.
    """
    path = Path(word)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        own = path.name == "config.yaml" and (path.parent / "run.json").is_file()
        return Found(word, directory=path.parent) if own else Found(word, config=path)
    for candidate in (path, SWEEPS / word):
        if (candidate / "config.yaml").is_file():
            return _of_directory(word, candidate)
    if path.is_dir():
        raise BadInput(f"{word}: is no run directory: it has no config.yaml")
    trial = re.fullmatch(r"([^/]+)/(\d+)(?:-(\d+))?", word)
    if trial and trial[3] is None:
        files = SWEEPS.glob(f"{trial[1]}/{trial[2]}-*/config.yaml")
        _only_one(word, [file.parent.name.rpartition("-")[2] for file in files])
    if (directory := by_short_word(word)) is not None:
        return _of_directory(word, directory)
    store = tracking_uri(uri)
    if is_registered(word):
        client = _open(word, store)
        named = look_up(client, word)
        return replace(_of_run(client, word, store, named.run_id), state_path=named.state_path)
    run_id = re.fullmatch(r"(?:runs:/+)?([0-9a-fA-F]{32})(?:/.*)?", word)
    if run_id:
        return _of_run(_open(word, store), word, store, run_id[1])
    if trial:
        client = _open(word, store)
        return _of_run(client, word, store, _trial(client, word, *trial.groups()))
    raise BadInput(f"{word}: there is no such run; name {WORDS}")


def run_directory(word: str, uri: str | None = None) -> Path:
    """The run directory that `word` names, as `find` does. Raises `BadInput` if it is gone."""
    found = find(word, uri)
    if found.directory is None:
        raise BadInput(f"{word}: its run directory is not on this machine")
    return found.directory


def _of_directory(word: str, directory: Path) -> Found:
    state = read_state(directory)
    uri = state.get("uri") and moved_project.store(directory, state["uri"])
    return Found(word, directory, uri, state.get("run_id"))


def _open(word: str, store: str) -> MlflowClient:
    check_uri(store)
    file = sqlite_file(store)
    if file is not None and not file.exists():
        raise BadInput(f"{word}: is no run directory, and there is no MLflow store at {file}")
    return open_client(absolute(store))


def _of_run(client: MlflowClient, word: str, store: str, run_id: str) -> Found:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        absent = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        what = "has no such run" if absent else "cannot be asked"
        raise BadInput(f"{word}: {store} {what} ({error.message})") from None
    named = run.data.tags.get("sft.run_dir")
    directory = moved_project.run_directory(Path(named), store) if named else None
    if directory and (directory / "config.yaml").is_file() and (directory / STATE_FILE).is_file():
        # A store can name any folder: the folder has to know the run, too.
        if _of_directory(word, directory).run_id == run_id:
            return Found(word, directory, absolute(store), run_id)
    return Found(word, None, absolute(store), run_id)


def moved(artifact_uri: str, store: str) -> str:
    """Where the artifacts are of an SQLite store that was copied together with its `mlartifacts`.

    MLflow knows them by the absolute path that they had when the store was made; a copy has them
    beside its database. Any other URI is returned as it is.
    """
    file = sqlite_file(store)
    path = Path(unquote(urlsplit(artifact_uri).path))
    if file is None or not artifact_uri.startswith("file:") or path.exists():
        return artifact_uri
    _, found, inner = path.as_posix().rpartition("/mlartifacts/")
    here = file.parent / "mlartifacts" / inner
    return here.as_uri() if found and ".." not in inner and here.is_dir() else artifact_uri


def find_trials(study: str, uri: str | None = None) -> list[Found]:
    """The trials of `study` in MLflow, by number. Raises `BadInput` if there are none."""
    store = tracking_uri(uri)
    client = _open(study, store)
    runs = _search(client, f"{_tagged('study', study)} AND tags.`sweep.trial` LIKE '%'")
    if not runs:
        raise BadInput(f"{study}: there is no such sweep under {SWEEPS}/ or in {store}")
    runs.sort(key=lambda run: int(run.data.tags["sweep.trial"]))
    return [
        _of_run(client, f"{study}/{run.data.tags['sweep.trial']}", store, run.info.run_id)
        for run in runs
    ]


def _trial(client: MlflowClient, word: str, study: str, number: str, repeat: str | None) -> str:
    query = f"{_tagged('study', study)} AND {_tagged('trial', number)}"
    if repeat is not None:
        query += f" AND {_tagged('repeat', repeat)}"
    if not (runs := _search(client, query)):
        raise BadInput(f"{word}: there is no such run directory and no such trial in MLflow")
    _only_one(word, [tag for run in runs if (tag := run.data.tags.get("sweep.repeat"))])
    return runs[0].info.run_id


def _only_one(word: str, repeats: Sequence[str]) -> None:
    """Refuse a trial that is several runs. Raises `BadInput`."""
    if len(numbers := sorted({int(repeat) for repeat in repeats})) > 1:
        names = ", ".join(f"{word}-{number}" for number in numbers)
        raise BadInput(f"{word}: the trial has several runs, its repeats; name one: {names}")


def _tagged(tag: str, value: str) -> str:
    quoted = value.replace("'", "")
    return f"tags.`sweep.{tag}` = '{quoted}'"


def _search(client: MlflowClient, query: str) -> list[Any]:
    from mlflow.exceptions import MlflowException

    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, filter_string=query, max_results=1_000))
    except MlflowException as error:
        raise BadInput(f"the MLflow store cannot be asked: {error.message}") from None
