"""One service on one root, from its start to its end.

ROOT/server.lock is held for life: a root has one service at most. ROOT/service.json (readable by
its owner alone) says where it listens and with which key, from when it is ready until it ends;
before, ROOT/loading.json says how far it is with its model.
With `until_unused`, the service ends when the last process that holds a shared lock on
ROOT/users.lock is gone. How that process ended does not matter: the kernel lets go of its locks.
Signals do not end such a service sooner: a scheduler sends them to every process of a job, and a
run that was told to end still saves here. A service that was started by hand ends at each of them,
after all that was to be saved is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from sft.local import signals
from sft.local.server.core import Core
from sft.local.server.http import make_app

GRACE_SECONDS = 2  # for answers under way when the service ends
KEEP_ALIVE_SECONDS = 30  # longer than httpx keeps idle connections, too short to pile them up
MOST_FILES = 65536  # open at once, connections included, if the system allows it
LOCK_TRIES = 10
LOADING = "loading.json"
BACKLOG = 1024  # connections that wait to be accepted


class CannotServe(Exception):
    """The service cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class Announcement:
    """What ROOT/service.json holds."""

    url: str
    key: str
    models: dict[str, str | None]
    dtype: str
    warnings: list[str] = field(default_factory=list)
    pid: int = field(default_factory=os.getpid)


@dataclass
class Ending:
    """How to end the process: at once, until `serve` has something to see to first."""

    end: Callable[[], object] = lambda: os._exit(0)

    def when_unused(self, root: Path) -> None:
        """Ends once nobody holds ROOT/users.lock, which from then on stays locked."""

        def wait() -> None:
            users = os.open(root / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(users, fcntl.LOCK_EX)  # for good: a newcomer waits for this process's end
            self.end()

        threading.Thread(target=wait, name="users", daemon=True).start()


@contextlib.contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Raises `CannotServe` while another service has the root."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "server.lock", "w") as file:
        for _ in range(LOCK_TRIES):  # a harness that looks whether it is free holds it briefly
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        else:
            raise CannotServe(
                f"another service has {root}: use that one (its address is in service.json), "
                "end it, or choose another --root"
            )
        yield


def allow_many_connections() -> None:
    """Every result that is waited for holds one; 1,024 files is a common limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket; port 0 takes a free one. Raises `CannotServe`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay off (40 ms an answer) only then.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise CannotServe(f"cannot listen on {host} port {port}: {error.strerror}") from error
        yield bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    core: Core,
    bound: socket.socket,
    announcement: Announcement,
    root: Path,
    *,
    ending: Ending,
    on_ready: Callable[[], None],
) -> None:
    """Until a signal, or `ending.end`. On return all that was to be saved is saved."""
    config = uvicorn.Config(
        make_app(core, announcement.key),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        core.end_all("the local service has ended")
        server.should_exit = True

    ending.end = lambda: loop.call_soon_threadsafe(stop)
    for number in signals.heeded():
        with contextlib.suppress(ValueError, RuntimeError):  # in a thread, as tests run it
            loop.add_signal_handler(number, stop)
    async with core.running():
        bound.listen(BACKLOG)
        with announced(root, announcement):
            on_ready()
            await server.serve(sockets=[bound])


class _Server(uvicorn.Server):
    """Leaves signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def tell_how_far(root: Path, done: int, parts: int) -> None:
    """Leave on disk how far loading is, for the harness that waits for this service."""
    said = {"pid": os.getpid(), "done": done, "parts": parts}
    (root / LOADING).write_text(json.dumps(said))


@contextlib.contextmanager
def announced(root: Path, announcement: Announcement) -> Iterator[None]:
    path = root / "service.json"
    fresh = root / f".service.json.{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        json.dump(vars(announcement), file, indent=1)
    fresh.replace(path)
    (root / LOADING).unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
