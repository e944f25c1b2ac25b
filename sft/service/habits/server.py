"""The proxy as a server of this process, on 127.0.0.1 and with a random key: one for each server.

    with habits.server.before("https://my.cluster/tinker") as url:
        client = tinker.ServiceClient(base_url=url, api_key=keys.api_key(url))

It runs in a thread of its own, for as long as anybody in the process uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from sft.service.habits.record import Habits
from sft.service.keys import held
from sft.service.proxies import exempt_loopback, is_loopback, sdk_without_proxies

T = TypeVar("T")

START_SECONDS = 30.0
END_SECONDS = 15.0


class Running:
    """A proxy that runs before the server at `url`."""

    def __init__(self, url: str, key: str | None):
        self.habits = Habits(url)
        self.key = f"tml-{secrets.token_urlsafe(24)}"  # the SDK takes no other form
        self.users = 0
        self.asked: set[object] = set()
        """Questions that the server was asked already."""
        self.asking = threading.Lock()
        self.server_key = key
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self.socket = _listening()
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="sft-habits", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or self._error is not None:
            raise RuntimeError(f"the proxy before {url} did not start: {self._error}")

    def _serve(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        import uvicorn

        from sft.service.habits.proxy import Proxy
        from sft.service.habits.upstream import Upstream

        try:
            through = not is_loopback(self.habits.url)
            upstream = Upstream(self.habits.url, self.server_key, through_proxies=through)
            self.proxy = Proxy(self.habits, upstream, self.key)
            config = uvicorn.Config(
                self.proxy, log_level="error", lifespan="off", access_log=False, ws="none"
            )
            self.server = uvicorn.Server(config)
            self.server.config.load()
            self.loop = asyncio.get_running_loop()
        except BaseException as error:
            self._error = error
            self._ready.set()
            raise
        self.loop.call_soon(self._ready.set)
        await self.server.serve(sockets=[self.socket])

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of the proxy's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def end(self) -> None:
        with contextlib.suppress(Exception):
            closing = asyncio.run_coroutine_threadsafe(self.proxy.close(), self.loop)
            closing.result(END_SECONDS)
        self.server.should_exit = self.server.force_exit = True
        self._thread.join(END_SECONDS)


def _listening() -> socket.socket:
    """A free port of 127.0.0.1. That it is TCP is said: else asyncio would not switch Nagle's wait
    off, and every answer would come 40 ms late."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    return listening


_running: dict[str, Running] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def before(url: str) -> Iterator[Running]:
    """The proxy before the server at `url`, shared by all that use it in this process."""
    with _lock:
        running = _running.get(url)
        if running is None:
            running = _running[url] = Running(url, _users_key(url))
        running.users += 1
    exempt_loopback(running.address)
    sdk_without_proxies(running.address)
    try:
        with held(running.address, running.key):
            yield running
    finally:
        with _lock:
            running.users -= 1
            if ended := not running.users:
                del _running[url]
        if ended:
            running.end()


def at(url: str | None) -> Running | None:
    """The proxy at an address; None at any other URL."""
    return next((one for one in list(_running.values()) if one.address == url), None)


def behind(url: str | None) -> Habits | None:
    """The habits of the server behind a proxy's address; None of any other URL."""
    return running.habits if (running := at(url)) else None


def shown(url: str | None) -> str | None:
    """The URL to show of a service: a server's own in place of its proxy's."""
    habits = behind(url)
    return habits.url if habits else url


def _users_key(url: str) -> str | None:
    """The key that the SDK would bring: of the environment, or of its file."""
    import os

    from tinker.lib.credentials import JsonCredentialStore, default_credentials_path

    from sft.service.keys import api_key

    if key := api_key(url) or os.environ.get("TINKER_API_KEY"):
        return key
    record = JsonCredentialStore(default_credentials_path()).get_default_key()
    return None if record is None else record.key
