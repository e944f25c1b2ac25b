"""Files that are whole or not there, locks between processes, YAML as data, and the cache.

The cache is `$SFT_CACHE`, else `$XDG_CACHE_HOME/sft`, else `~/.cache/sft`; if the latter two cannot
be written, a folder of the user's own among the temporary ones.
"""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.errors import BadInput

logger = logging.getLogger(__name__)


def replace_durably(path: Path, content: str | bytes) -> None:
    """Replace the file at `path` by `content`. A crash leaves the old or the new one, whole.

    Threads and processes may do so at the same time: the last one to end wins.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def json_lines(path: Path) -> list[Any]:
    """The values in a file of JSON lines. A last line that a crash cut short is passed over."""
    values = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return values


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file at `path`; wait while another thread or process holds it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_once(target: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `target`, whole or not at all, with what `fill` writes into a scratch folder.

    Of several processes one makes it and the others wait. What killed processes left is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f"{target.name}.lock"):
        if target.is_dir():
            return
        prefix = f".{target.name}-"
        for left in target.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        # Beside the target: only within one file system is a rename atomic.
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            fill(scratch)
            scratch.chmod(0o755)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def dump_yaml(saved: dict[str, Any]) -> str:
    """Plain data as YAML, in its order."""
    import yaml  # 10 ms that `--help` need not pay

    return yaml.safe_dump(saved, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, as plain data. Raises `BadInput`."""
    import yaml

    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid"
        raise BadInput(f"{path}{line}: not plain YAML: {problem}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: is not a mapping of keys to values")
    return value


def _loader() -> type:
    """PyYAML's safe loader, which reads `1e-05` as the number that it is (YAML 1.2)."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def cache_folder() -> Path:
    """Return the project's cache folder (it may not exist yet).

    Raises `BadInput` if neither the home folder nor a temporary one can be used.
    """
    if override := os.environ.get("SFT_CACHE"):
        return Path(override).expanduser()
    usual = usual_cache()
    return usual if usual and can_be_written(usual) else _private_folder(usual)


def usual_cache() -> Path | None:
    """The cache if it can be written; None if the user has no home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sft"
    except RuntimeError:
        return None


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in `folder`, once it is made."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))  # a quota is felt only here
        return True
    except OSError:
        return False


@functools.cache
def _private_folder(instead_of: Path | None) -> Path:
    """A temporary folder that nobody else can have put anything into; says so, once."""
    folder = Path(tempfile.gettempdir(), f"sft-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise BadInput(
            f"the cache {folder} cannot be made: {error.strerror}; set SFT_CACHE to a folder"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadInput(
            f"the cache {folder} is not a folder of yours alone (mode 700), so that what it holds "
            "is not to be trusted; remove it, or set SFT_CACHE to another folder"
        )
    what = f"the cache {instead_of} cannot be written" if instead_of else "there is no home folder"
    logger.warning("%s; using %s (SFT_CACHE names another one)", what, folder)
    return folder
