"""A checkpoint as files, from a server that hands out a training run's archive: a tar of a PEFT
folder. What comes in it is the server's: nothing but the two files of an adapter is written."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from sft.secrets import mask_urls
from sft.service.habits.server import Running

if TYPE_CHECKING:
    import httpx

FILES = ("adapter_config.json", "adapter_model.safetensors")
LARGEST = 8 << 30
"""Bytes of an archive, and of what is in it; no adapter has as many."""
LARGEST_MESSAGE = 1 << 20
"""Bytes of a message that says where the archive lies."""
PIECE = 1 << 20
SECONDS = 600.0
MOST_ADDRESSES = 5
"""That lead from one to the next."""
GZIP = b"\x1f\x8b"


class NotHandedOut(Exception):
    """The server has no archive of a checkpoint, or one that is not taken."""


class NotThere(NotHandedOut):
    """The server does not know the archive's path."""


def adapter(running: Running, sampler_path: str, folder: Path) -> None:
    """Bring the PEFT adapter at `sampler_path` (tinker://RUN/sampler_weights/NAME) to `folder`.

    Raises `NotHandedOut`; nothing of an archive that is refused stays in `folder`.
    """
    run, _, name = sampler_path.removeprefix("tinker://").partition("/")
    where = f"{running.habits.url.rstrip('/')}/api/v1/training_runs/{run}/checkpoints"
    try:
        with tempfile.TemporaryFile(dir=folder) as archive:
            try:  # with the kind, as hosted Tinker names checkpoints
                fetch(running, f"{where}/{name}/archive", archive)
            except NotThere:
                fetch(running, f"{where}/{name.rpartition('/')[2]}/archive", archive)
            unpack(archive, folder)
    except OSError as error:
        raise NotHandedOut(f"{folder}: cannot hold it: {error.strerror or error}") from error


def fetch(running: Running, url: str, archive: IO[bytes]) -> None:
    """Write to `archive` what lies at `url`, or where redirections and messages lead from there.

    Raises `NotHandedOut`.
    """
    import httpx

    with httpx.Client(timeout=SECONDS) as client:
        for _ in range(MOST_ADDRESSES):
            try:
                headers = _key_for(running, url)
                with client.stream("GET", url, headers=headers) as reply:
                    further = _further(reply)
                    if further is None:
                        _copy(reply.iter_bytes(PIECE), archive)
                        return
                    url = urljoin(url, further)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # no URL
                raise NotHandedOut(f"{mask_urls(url)}: {error}") from error
    raise NotHandedOut(f"its address leads to another one {MOST_ADDRESSES} times")


def _key_for(running: Running, url: str) -> dict[str, str]:
    """The headers of a request: the key goes to the server alone. Raises `NotHandedOut` of a kind
    of address that is not taken, and `ValueError` of what is none."""
    parts, server = urlsplit(url), urlsplit(running.habits.url)
    if parts.scheme not in ("http", "https"):
        raise NotHandedOut(
            f"the server gives a {parts.scheme}:// address of it, on its own machine"
        )
    own = (parts.scheme, parts.netloc) == (server.scheme, server.netloc)
    return {"X-API-Key": running.server_key} if own and running.server_key else {}


def _further(reply: httpx.Response) -> str | None:
    """The address that an answer leads to; None if it is the archive. Raises `NotHandedOut`."""
    if reply.has_redirect_location:
        return str(reply.headers["location"])
    if reply.status_code != 200:
        kind = NotThere if reply.status_code in (404, 405) else NotHandedOut
        raise kind(f"there is no archive of it: status {reply.status_code}")
    if not reply.headers.get("content-type", "").startswith("application/json"):
        return None
    message = b""
    for piece in reply.iter_bytes(PIECE):
        message += piece
        if len(message) > LARGEST_MESSAGE:
            break
    try:
        return str(json.loads(message)["url"])
    except (ValueError, TypeError, KeyError) as error:
        raise NotHandedOut("it answers with JSON that holds no url") from error


def unpack(archive: IO[bytes], folder: Path) -> None:
    """Write the adapter's two files from `archive`, a tar or a tar.gz, into `folder`.

    Raises `NotHandedOut` if it is damaged or no archive, leads out of its folder, holds links, or
    not the two files of one adapter.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            _extract(archive, Path(scratch))
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise NotHandedOut(
                f"what it hands out is no archive, or a damaged one: {error}"
            ) from error
        for name in FILES:
            (Path(scratch) / name).replace(folder / name)


def _extract(archive: IO[bytes], folder: Path) -> None:
    archive.seek(0)
    is_packed = archive.read(len(GZIP)) == GZIP
    archive.seek(0)
    with tempfile.TemporaryFile(dir=folder) as plain:
        if is_packed:  # to its end, where its checksum is
            with gzip.open(archive) as source:
                _copy(iter(lambda: source.read(PIECE), b""), plain)
            plain.seek(0)
        with tarfile.open(fileobj=plain if is_packed else archive, mode="r:") as tar:
            for name, member in _files_of(tar).items():
                content = tar.extractfile(member)
                assert content is not None  # a plain file
                with content, (folder / name).open("wb") as target:
                    shutil.copyfileobj(content, target)


def _files_of(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The two files of the one adapter in `tar`, by name. Raises `NotHandedOut`."""
    folders: dict[PurePosixPath, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        path = PurePosixPath(member.name)
        if member.isdir():
            continue
        if not member.isfile() or path.is_absolute() or ".." in path.parts:
            raise NotHandedOut(f"its archive holds '{member.name}', which is not taken")
        if path.name in FILES:
            folders.setdefault(path.parent, {})[path.name] = member
    whole = {folder: files for folder, files in folders.items() if len(files) == len(FILES)}
    if len(whole) != 1:
        named = " and ".join(f"'{folder}'" for folder in whole)
        found = (
            f"{len(whole)} adapters, {named}" if whole else f"no folder with {' and '.join(FILES)}"
        )
        raise NotHandedOut(f"its archive holds {found}; expected one adapter")
    return next(iter(whole.values()))


def _copy(pieces: Iterable[bytes], target: IO[bytes]) -> None:
    """Raises `NotHandedOut` above `LARGEST`."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > LARGEST:
            raise NotHandedOut(f"its archive holds more than {LARGEST >> 30} GiB")
        target.write(piece)
