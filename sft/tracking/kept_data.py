"""Files of data that are kept with a run in MLflow, so that it can be trained again from there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sft.data.files import inventory
from sft.errors import BadInput

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sft.tracking.tracked_run import TrackedRun

FOLDER = "data"
"""Among a run's artifacts; in it a folder for each key that names files."""
MEGABYTE = 1_000_000


def send(run: TrackedRun, client: MlflowClient) -> Iterator[str]:
    """Send what the run's data is made of, once, if the user wants it; sentences of what is not
    kept."""
    files = run.facts.get("files") or {}
    limit = (run.settings.get("tracking") or {}).get("keep_data_mb") or 0
    if not files or not limit:
        return
    size = sum(known["bytes"] for known in files.values()) / MEGABYTE
    if size > limit:
        yield (
            f"does not keep the data of {run.directory}: it has {size:.3g} MB, more than "
            f"tracking.keep_data_mb={limit:g}"
        )
        return
    kept = run.state.setdefault("kept", {})
    for key, known in files.items():
        if known["sha256"] is None or kept.get(key) == known["sha256"]:
            continue
        path = os.path.join(run.facts.get("working_directory") or "", known["path"])
        if os.path.expanduser(known["path"]) != known["path"]:
            path = os.path.expanduser(known["path"])
        if not _is(path, known["sha256"]):
            yield f"does not keep the data of {run.directory}: {path} is not as it was read"
            continue
        for name, file in inventory.members(path).items():
            place = os.path.join(FOLDER, key, os.path.dirname(name))
            client.log_artifact(run.run_id, str(file), place.rstrip("/"))
        kept[key] = known["sha256"]
        run.save()


def _is(path: str, digest: str) -> bool:
    """Whether the files that `path` names are those of that digest."""
    try:
        files = inventory.members(path)
        return bool(files) and inventory.digest(files) == digest
    except (BadInput, OSError):
        return False
