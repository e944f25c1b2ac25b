"""Data of an earlier run that is not here any more, from the files that MLflow keeps of it."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sft.config.data import places
from sft.data.files import inventory
from sft.errors import BadInput
from sft.files import make_once
from sft.tracking.kept_data import FOLDER

if TYPE_CHECKING:
    from sft.past.find import Found

logger = logging.getLogger(__name__)

HERE = Path("outputs", "data")
"""Where fetched data lies, in folders named by its digest."""


@dataclass
class Fetched:
    """Data of a config that is kept in MLflow."""

    data: str
    """The name of the data: `dataset`, `dataset.parts.NAME`, `evaluators.args.NAME` …"""
    key: str
    """Of its path in the config."""
    known: Mapping[str, Any]
    """What the run recorded of it; see `Inventory`."""
    artifacts: dict[str, int] = field(default_factory=dict)
    """Its files among the run's artifacts, and their bytes."""

    @property
    def folder(self) -> Path:
        return HERE / str(self.known["sha256"])[:16]

    @property
    def place(self) -> str:
        """The path that names the same files in the folder of what was fetched."""
        return str(self.folder / str(self.known["inside"]))

    def fetch(self, found: Found) -> str:
        """Bring the files here, once; a sentence. Raises `BadInput` if they are not the same."""
        size = sum(self.artifacts.values())
        if size != self.known["bytes"]:
            raise BadInput(
                f"{self.key}: MLflow keeps {size} bytes of the {self.known['bytes']} that the run "
                "read; put the data where the config names it, and add --trust"
            )
        make_once(self.folder, lambda folder: self._fill(found, folder))
        now = self._checked(self.folder)
        rows = "" if now.rows is None else f", {now.rows} rows"
        return f"{self.key}: {self.known['path']} as MLflow keeps it, in {self.folder}{rows}"

    def _checked(self, folder: Path) -> inventory.Inventory:
        """What `folder` holds. Raises `BadInput` if the run read something else."""
        now = inventory.take(str(folder / str(self.known["inside"])))
        if now is None or now.sha256 != self.known["sha256"]:
            raise BadInput(
                f"{self.key}: {self.folder}, as MLflow keeps it, is not what the run read (sha256 "
                f"{self.known['sha256']} then, {now and now.sha256} now); put the data where the "
                "config names it, and add --trust"
            )
        return now

    def _fill(self, found: Found, folder: Path) -> None:
        above = PurePosixPath(FOLDER, self.data)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            for name in self.artifacts:
                if (
                    not (within := PurePosixPath(name)).is_relative_to(above)
                    or ".." in within.parts
                ):
                    raise BadInput(f"{found.word}: MLflow names a file outside its folder, {name}")
                target = folder / within.relative_to(above)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(found.download(name, Path(scratch)), target)
        self._checked(folder)


def needed(found: Found, facts: Mapping[str, Any], trust: bool) -> list[Fetched]:
    """What of the data of `found` is to be fetched, and can be: it is not on this machine, or its
    config comes from elsewhere, and may not name places here. `facts` are those of the run."""
    recorded = facts.get("files")
    if found.run_id is None or not isinstance(recorded, Mapping):
        return []
    missing = []
    for place in places(found.saved()):
        known = recorded.get(place.name)
        if not isinstance(known, Mapping) or not _is_sound(known):
            continue
        if not ((found.is_own or trust) and inventory.members(place.path)):
            missing.append(Fetched(place.name, place.key, known))
    if not missing:
        return []
    try:
        for one in missing:
            one.artifacts = found.kept(f"{FOLDER}/{one.data}")
    except Exception as error:  # what is missing is said by what reads it
        logger.debug("the files of run %s cannot be listed: %s", found.run_id, error)
    return [one for one in missing if one.artifacts]


def _is_sound(known: Mapping[str, Any]) -> bool:
    """Whether what a run recorded leads to a place below `HERE`: it may come from elsewhere."""
    inside = PurePosixPath(str(known.get("inside")))
    digest = re.fullmatch("[0-9a-f]{64}", str(known.get("sha256")))
    return (
        bool(digest and known.get("bytes") and known.get("inside") and known.get("path"))
        and not inside.is_absolute()
        and ".." not in inside.parts
    )
