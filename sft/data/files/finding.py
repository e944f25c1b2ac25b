"""The files that a path names: one, those of a folder, or those that a pattern fits."""

from __future__ import annotations

import glob
import os
import re
import stat
from pathlib import Path

from sft.errors import BadInput

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
PACKED = (".gz", ".zst", ".zstd", ".bz2", ".xz")
"""In a folder the names decide which files are data; what each one is, its content."""

ABOUT = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
"""Files of `datasets` that are about data."""

HELD_OUT = re.compile(
    r"(^|[^a-z])(test|testing|val|valid|validation|dev|eval|evaluation)([^a-z]|$)"
)
"""In a file's name: data that is kept to evaluate on."""


def place_of(path: str) -> Path:
    """`path` with ~ replaced. Raises `BadInput` for "", which would be the current folder."""
    if not path.strip():
        raise BadInput("dataset.path: is empty; expected a file, a folder or a pattern")
    return Path(os.path.expanduser(path))


def has_wildcard(path: str) -> bool:
    return any(character in path for character in "*?[")


def is_pattern(path: str) -> bool:
    return has_wildcard(path) and not os.path.exists(os.path.expanduser(path))


def named_as_file(path: str) -> bool:
    """Whether `path` ends as the name of a file of data does: it is no id of the Hub."""
    return path.lower().endswith((*SUFFIXES, *PACKED))


def files_of(path: str) -> tuple[list[Path], list[str]]:
    """The files that `path` names, sorted by name, and the names of those beside them that are not
    read. Raises `BadInput` if there are none."""
    place = place_of(path)
    if is_pattern(path):
        matches = map(Path, glob.glob(str(place), recursive=True))
        if found := sorted(match for match in matches if os.path.isfile(match)):
            return found, []
        raise BadInput(f"dataset.path: no file fits the pattern {path}")
    try:
        is_folder = stat.S_ISDIR(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        hub = "; for a dataset of the Hub add dataset=hf_chat" if _may_be_hub_id(path) else ""
        raise BadInput(f"dataset.path: there is no file {path}{hub}") from None
    except OSError as error:
        raise BadInput(f"dataset.path: {path} cannot be read: {error.strerror}") from None
    return _of_folder(place) if is_folder else ([place], [])


def walk(folder: Path) -> list[Path]:
    """The files below `folder`, sorted by name, without hidden ones. Links are followed.

    Raises `BadInput` if a folder in it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise BadInput(f"dataset.path: {error.filename} cannot be read: {error.strerror}")

    found: list[Path] = []
    # By a folder, its real path and those of the folders around it: a link may lead back to one.
    around: dict[str, set[str]] = {}
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        above = around.get(os.path.dirname(place), set())
        if real in above:
            folders.clear()
            continue
        around[place] = {*above, real}
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _of_folder(folder: Path) -> tuple[list[Path], list[str]]:
    found: list[Path] = []
    others: list[Path] = []
    for path in walk(folder):
        (found if _is_data(path) else others).append(path)
    if not found:
        raise BadInput(
            f"dataset.path: the folder {folder} holds no file of chats; "
            f"expected {', '.join(SUFFIXES)}, perhaps packed ({', '.join(PACKED)})"
        )
    kept = [path for path in found if HELD_OUT.search(str(path.relative_to(folder)).lower())]
    if kept and len(kept) < len(found):
        raise BadInput(
            f"dataset.path: the folder {folder} holds {kept[0].relative_to(folder)}, which is "
            "named like data to evaluate on; name the files to train on, such as "
            f"'dataset.path=\"{folder}/train*\"', or add dataset=hf_chat, which knows splits"
        )
    return found, [str(path.relative_to(folder)) for path in others]


def _is_data(path: Path) -> bool:
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.endswith(SUFFIXES) and path.name not in ABOUT


def _may_be_hub_id(path: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None and not path.startswith(".")
