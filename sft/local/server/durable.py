"""Folders that are either whole or not there, whenever the power goes.

A folder is written under a hidden name, synced file by file, and renamed: the rename is the moment
it exists. What a crash leaves under hidden names is put right by `recover` at the next start:

    .new-*   a write that was not finished, deleted
    .old-*   the folder that an overwrite moved away: moved back if its successor never arrived
    .gone-*  a removal that was not finished, deleted
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path, root: Path) -> None:
    """mkdir -p below `root`, each new name synced into its parent."""
    missing = []
    while path != root and not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Makes the folder `target` hold what `fill` writes, replacing an older one.

    On return all of it is on disk. Whatever happens before, `target` is the older one or absent.
    """
    token = secrets.token_hex(6)
    fresh = target.parent / f".new-{token}-{target.name}"
    fresh.mkdir()
    try:
        fill(fresh)
        for file in fresh.iterdir():
            sync(file)
        sync(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    old = target.parent / f".old-{token}-{target.name}"
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_file(target: Path, content: bytes) -> None:
    """Replaces one file's content, or leaves it as it was."""
    fresh = target.parent / f".new-{secrets.token_hex(6)}-{target.name}"
    fresh.write_bytes(content)
    sync(fresh)
    fresh.replace(target)
    sync(target.parent)


def remove_folder(target: Path) -> None:
    """Deletes a folder; it is gone from the moment of a rename."""
    gone = target.parent / f".gone-{secrets.token_hex(6)}-{target.name}"
    target.rename(gone)
    sync(target.parent)
    shutil.rmtree(gone, ignore_errors=True)


def recover(parent: Path) -> None:
    """Clears what a crash left in `parent`; to be called while nothing writes there."""
    for leftover in sorted(parent.glob(".old-*")):
        target = parent / leftover.name.split("-", 2)[2]
        if not target.exists():
            leftover.rename(target)
            sync(parent)
    for pattern in (".new-*", ".old-*", ".gone-*"):
        for leftover in parent.glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
