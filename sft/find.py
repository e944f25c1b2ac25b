"""Finding a run by the word that a user gives for it."""

from __future__ import annotations

import os
from pathlib import Path

from sft.errors import BadInput

DEFAULT_URI = "sqlite:///mlflow.db"
WORDS = "a run directory, an MLflow run id, runs:/ID, or STUDY/NUMBER for a sweep's trial"


def run_directory(word: str, uri: str | None = None) -> Path:
    """The run directory that `word` names: a directory, a run id, `runs:/ID` or `STUDY/NUMBER`.

    `uri` is the MLflow store that run ids are looked up in (default: `MLFLOW_TRACKING_URI`, then
    the default of `tracking.uri`). Raises `BadInput`.
    """
    path = Path(word)
    if path.name == "config.yaml":
        path = path.parent
    for candidate in (path, Path("outputs", "sweeps", word)):
        if (candidate / "config.yaml").is_file():
            return candidate
    if path.is_dir():
        raise BadInput(f"{word}: is no run directory: it has no config.yaml")
    run_id = word.removeprefix("runs:/").strip("/")
    if not run_id.isalnum():
        raise BadInput(f"{word}: there is no such run; name {WORDS}")
    return _directory_of(run_id, uri)


def tracking_uri(uri: str | None = None) -> str:
    """`uri`, or the one in the environment, or the default of `tracking.uri`."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def _directory_of(run_id: str, uri: str | None) -> Path:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    store = tracking_uri(uri)
    if store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).exists():
        raise BadInput(f"{run_id}: is no run directory, and there is no MLflow store at {store}")
    try:
        run = MlflowClient(tracking_uri=store).get_run(run_id)
    except MlflowException as error:
        raise BadInput(f"{run_id}: {store} has no such run ({error.message})") from None
    directory = Path(run.data.tags.get("sft.run_dir", ""))
    if not (directory / "config.yaml").is_file():
        raise BadInput(f"{run_id}: its run directory {directory} is not on this machine")
    return directory
