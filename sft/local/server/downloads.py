"""Downloads: the files of a checkpoint by signed URLs, one each, or all of them as one archive.

Whoever has such a URL needs no key, as long as it is good for: the SDK and its command line fetch
it with a plain GET. Only a PEFT folder is handed out, never the optimizer's state.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route
from tinker import types

from sft.local.server.bodies import answer
from sft.local.server.store import CheckpointPath, Store, StoreError

FOLDER = "/api/v1/downloads/"
ARCHIVE = "archive.tar.gz"
GOOD_FOR = 3600.0  # seconds


class Signatures:
    """Of paths, with the service's key; a new key ends all older URLs."""

    def __init__(self, key: str):
        self._key = key.encode()

    def query(self, path: str, expires: int) -> str:
        """`expires` in seconds since the epoch."""
        return f"expires={expires}&signature={self._sign(path, str(expires))}"

    def is_right(self, path: str, expires: str, signature: str) -> bool:
        right = hmac.compare_digest(self._sign(path, expires).encode(), signature.encode())
        return right and int(expires) > time.time()  # a number, if we have signed it

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


def routes(store: Store, signatures: Signatures) -> list[Route]:
    downloads = Downloads(store, signatures)
    checkpoint = "/api/v1/training_runs/{run}/checkpoints/{kind}/{name}"
    return [
        Route(checkpoint + "/external_weights_urls", downloads.urls),
        Route(checkpoint + "/archive", downloads.archive_url),
        Route(FOLDER + "{run}/{kind}/{name}/" + ARCHIVE, downloads.archive),
        Route(FOLDER + "{run}/{kind}/{name}/{file}", downloads.file),
    ]


class Downloads:
    def __init__(self, store: Store, signatures: Signatures):
        self._store = store
        self._signatures = signatures

    async def urls(self, request: Request) -> Response:
        path = CheckpointPath(**request.path_params)
        files = await asyncio.to_thread(self._store.peft_files, path)
        expires = int(time.time() + GOOD_FOR)
        urls = {file.name: self._url(request, path, file.name, expires) for file in files}
        when = datetime.fromtimestamp(expires, UTC)
        return answer(types.ExternalWeightsUrlsResponse(urls=urls, expires=when))

    async def archive_url(self, request: Request) -> Response:
        """A redirection, as older SDKs (0.25) expect it; 0.38 has no archives any more."""
        path = CheckpointPath(**request.path_params)
        await asyncio.to_thread(self._store.peft_files, path)
        expires = int(time.time() + GOOD_FOR)
        when = format_datetime(datetime.fromtimestamp(expires, UTC), usegmt=True)
        return RedirectResponse(
            self._url(request, path, ARCHIVE, expires), 302, headers={"Expires": when}
        )

    async def file(self, request: Request) -> Response:
        wanted = request.path_params.pop("file")
        path = CheckpointPath(**request.path_params)
        for file in await asyncio.to_thread(self._store.peft_files, path):
            if file.name == wanted:
                return FileResponse(file, media_type="application/octet-stream")
        raise StoreError(f"{path} has no file {wanted!r}")

    async def archive(self, request: Request) -> Response:
        path = CheckpointPath(**request.path_params)
        files = await asyncio.to_thread(self._store.peft_files, path)
        packed = await asyncio.to_thread(_pack, files)
        return FileResponse(
            packed, media_type="application/gzip", background=BackgroundTask(packed.unlink)
        )

    def _url(self, request: Request, path: CheckpointPath, name: str, expires: int) -> str:
        """At the address by which the client knows this service."""
        place = f"{FOLDER}{path.run}/{path.kind}/{path.name}/{name}"
        return (
            f"{str(request.base_url).rstrip('/')}{place}?{self._signatures.query(place, expires)}"
        )


def _pack(files: list[Path]) -> Path:
    """A tar.gz of the files, side by side, in a temporary file."""
    with tempfile.NamedTemporaryFile(suffix=".tar.gz", delete=False) as target:
        # Weights hardly shrink: no time is spent on trying.
        with tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive:
            for file in files:
                archive.add(file, arcname=file.name)
    return Path(target.name)
