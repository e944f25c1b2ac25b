"""The MLflow run of a run directory: found in the store, or made there."""

from __future__ import annotations

import getpass
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from sft.tracking.tracked_run import TrackedRun
from sft.tracking.view import dress

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KEY = "sft.key"
"""The tag by which a run is known that was made, but not yet noted by the process that made it."""
Warn = Callable[[str, str], None]


def ensure_run(tracked: TrackedRun, client: MlflowClient, warn: Warn) -> None:
    """Let `tracked` have an MLflow run: the one that it knows, one with its key, or a new one.

    `warn` takes a subject and a sentence, for what is not as it was left.
    """
    from mlflow.exceptions import MlflowException

    if tracked.run_id is not None:
        try:
            run = client.get_run(tracked.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
            if not tracked.state.get("unsure"):
                warn("run", f"has no run {tracked.run_id} any more; a new one is made")
        if run is not None:
            of_run = {"run_id": tracked.run_id, "experiment_id": run.info.experiment_id}
            tracked.save(**of_run, ended=False, unsure=False)
            return
        tracked.state |= {"key": uuid.uuid4().hex, "models": {}, "unsure": False}
        tracked.run_id = None
    experiment_id = _experiment(tracked, client, warn)
    run = made_under(client, experiment_id, tracked.state["key"])
    if run is None:
        tracked.save(run_id=None)
        start = tracked.facts.get("started")
        run = client.create_run(
            experiment_id,
            start_time=int(start * 1000) if start else int(time.time() * 1000),
            run_name=tracked.name,
            tags={KEY: tracked.state["key"], "mlflow.user": user()},
        )
    tracked.run_id = run.info.run_id
    tracked.save(run_id=tracked.run_id, experiment_id=experiment_id)


def made_under(client: MlflowClient, experiment_id: str, key: str) -> Run | None:
    """The run of an experiment that was made with this `KEY`."""
    found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
    return found[0] if found else None


def _experiment(tracked: TrackedRun, client: MlflowClient, warn: Warn) -> str:
    """The id of the run's experiment, which is made or restored if need be."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(tracked.experiment)
    if found is None:
        try:
            client.create_experiment(
                tracked.experiment, tracked.store.artifact_location(tracked.experiment)
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(tracked.experiment)
    if found.lifecycle_stage == "deleted":
        warn("experiment", f"has deleted the experiment {tracked.experiment}; restored")
        client.restore_experiment(found.experiment_id)
    dress(client, found)
    return found.experiment_id


def user() -> str:
    """Who runs this process, by name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
