"""A checkpoint as files, from a server that hands out a training run's archive: a tar of a PEFT
folder. What comes in it is the server's: nothing but the two files of an adapter is written."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from sft.secrets import mask_urls
from sft.service.habits.server import Running

FILES = ("adapter_config.json", "adapter_model.safetensors")
LARGEST = 8 << 30
"""Bytes of a file; no adapter has as many."""
SECONDS = 600.0
MOST_REDIRECTS = 5


class NotHandedOut(Exception):
    """The server has no archive of a checkpoint, or one that is not taken."""


class NotThere(NotHandedOut):
    """The server does not know the archive's path."""


def adapter(running: Running, sampler_path: str, folder: Path) -> None:
    """Bring the PEFT adapter at `sampler_path` (tinker://RUN/sampler_weights/NAME) to `folder`.

    Raises `NotHandedOut`.
    """
    run, _, name = sampler_path.removeprefix("tinker://").partition("/")
    where = f"{running.habits.url.rstrip('/')}/api/v1/training_runs/{run}/checkpoints"
    try:  # with the kind, as hosted Tinker names checkpoints
        archive = _fetched(running, f"{where}/{name}/archive")
    except NotThere:
        archive = _fetched(running, f"{where}/{name.rpartition('/')[2]}/archive")
    unpacked(archive, folder)


def _fetched(running: Running, url: str) -> bytes:
    """What lies at `url`, and where it leads; the key goes to the server alone."""
    import httpx

    server = urlsplit(running.habits.url)
    with httpx.Client(timeout=SECONDS) as client:
        for _ in range(MOST_REDIRECTS):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https"):
                raise NotHandedOut(
                    f"the server gives a {parts.scheme}:// address of it, on its own machine"
                )
            own = (parts.scheme, parts.netloc) == (server.scheme, server.netloc)
            headers = {"X-API-Key": running.server_key} if own and running.server_key else {}
            try:
                reply = client.get(url, headers=headers)
            except httpx.HTTPError as error:
                raise NotHandedOut(f"{mask_urls(url)}: {error}") from error
            if not reply.is_redirect:
                break
            url = urljoin(url, reply.headers["location"])
    if reply.status_code != 200:
        kind = NotThere if reply.status_code in (404, 405) else NotHandedOut
        raise kind(f"there is no archive of it: status {reply.status_code}")
    if reply.headers.get("content-type", "").startswith("application/json"):
        found: Any = reply.json()
        if isinstance(found, dict) and isinstance(found.get("url"), str):
            return _fetched(running, found["url"])
    return reply.content


def unpacked(archive: bytes, folder: Path) -> None:
    """Write the adapter's two files from `archive` into `folder`.

    Raises `NotHandedOut` if it is no archive, leads out of its folder, holds links, or lacks one.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = [member for member in tar.getmembers() if not member.isdir()]
            for member in members:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.is_absolute() or ".." in path.parts:
                    raise NotHandedOut(f"its archive holds '{member.name}', which is not taken")
                if member.size > LARGEST:
                    raise NotHandedOut(f"its archive holds {member.size} bytes of {member.name}")
            for name in FILES:
                found = [one for one in members if PurePosixPath(one.name).name == name]
                if not found:
                    raise NotHandedOut(f"its archive holds no {name}")
                source = tar.extractfile(found[0])
                assert source is not None  # a plain file
                with source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except tarfile.TarError as error:
        raise NotHandedOut(f"what it hands out is no archive: {error}") from error
