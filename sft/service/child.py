"""A local Tinker service for as long as it is needed: started here, or joined if one is there.

    with service.local(root, {"my-model": "/data/my-model"}) as url:
        client = tinker.ServiceClient(base_url=url, api_key=service.api_key(url))

Each process that uses the service holds a shared lock on ROOT/users.lock. The kernel releases it
when the process ends, in whatever way. The service ends itself when nobody holds the lock any more.
So there is no pipe to inherit by mistake, and no thread whose death would count. A service that
dies while it is used (a machine short of memory kills it) is started again at the same address. Its
sessions are lost, its checkpoints are not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sft.service.keys import api_key, held
from sft.service.process import POLL_SECONDS, Running, ServiceUnavailable, Wanted, is_taken, lock
from sft.service.proxies import exempt_loopback

__all__ = ["ServiceUnavailable", "api_key", "local", "pid"]

END_SECONDS = 15.0  # for a service nobody uses to write what it has and go
WATCH_SECONDS = 1.0
MOST_RESTARTS = 5  # that fail, one after another

_roots: dict[str, Path] = {}  # of these services, by URL
_held: set[int] = set()  # open users.lock files


def pid(base_url: str | None) -> int | None:
    """The process of a local service that this process uses; None of any other."""
    try:
        return int(json.loads((_roots[base_url or ""] / "service.json").read_text())["pid"])
    except (KeyError, OSError, ValueError):
        return None


@contextlib.contextmanager
def local(
    root: Path,
    models: dict[str, str | None],
    *,
    dtype: str = "auto",
    python: str = sys.executable,
    log: Path | None = None,
) -> Iterator[str]:
    """The URL of a service on `root` that serves `models` (name -> folder, or None: the Hub's).

    It is ready on entry. On leaving, the service ends if nobody else uses it. What it says goes to
    the file `log` (default ROOT/service.log); what its users should know goes to this module's log
    too.

    Raises `ServiceUnavailable` if it did not start, or if one that runs there serves something
    else.
    """
    root = Path(root).absolute()
    models = {name: folder and os.path.abspath(folder) for name, folder in models.items()}
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceUnavailable(f"cannot make the service's root {root}: {error}") from error
    exempt_loopback()  # of whoever talks to it from here, and of the child
    wanted = Wanted(root, models, dtype, python, log or root / "service.log")
    with _using(root) as users:
        running, child = wanted.obtain()
        for sentence in running.warnings:
            logging.getLogger(__name__).warning("the local service: %s", sentence)
        _roots[running.url] = root
        watch = _Watch(wanted, running, child)
        try:
            with held(running.url, running.key):
                yield running.url
        finally:
            _leave(users, watch.end())


@contextlib.contextmanager
def _using(root: Path) -> Iterator[int]:
    """Holds the lock that keeps a service alive; waits while an older one is ending."""
    users = lock(root / "users.lock", fcntl.LOCK_SH)
    _held.add(users)
    try:
        yield users
    finally:
        if users in _held:
            _held.remove(users)
            os.close(users)


def _let_go() -> None:
    """A forked child is no user: it may outlive its parent."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class _Watch:
    """A thread that starts the service again if it dies, until `end`."""

    def __init__(self, wanted: Wanted, running: Running, child: subprocess.Popen | None):
        self._wanted = wanted
        self._running = running
        self._child = child
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service-watch", daemon=True)
        self._thread.start()

    def end(self) -> subprocess.Popen | None:
        """Stops watching; returns the service's process if it is this one's child."""
        self._over.set()
        self._thread.join()
        return self._child

    def _run(self) -> None:
        failures = 0
        while failures < MOST_RESTARTS and not self._over.wait(WATCH_SECONDS):
            if is_taken(self._wanted.root):
                continue
            logging.getLogger(__name__).warning(
                "the local service has died (its log: %s) and is started again", self._wanted.log
            )
            try:
                _, self._child = self._wanted.obtain(like=self._running)
                failures = 0
            except ServiceUnavailable as error:
                logging.getLogger(__name__).error("%s", error)
                failures += 1


def _leave(users: int, child: subprocess.Popen | None) -> None:
    """Lets go of the service; if nobody else uses it, waits until a child of ours is gone."""
    fcntl.flock(users, fcntl.LOCK_UN)
    give_up = time.monotonic() + END_SECONDS
    while child is not None and child.poll() is None and not _is_used(users):
        if time.monotonic() > give_up:
            child.kill()
            child.wait()
        time.sleep(POLL_SECONDS)


def _is_used(users: int) -> bool:
    """Whether others share the lock; when its time has come the service alone holds it."""
    for kind, is_used_if_free in ((fcntl.LOCK_EX, False), (fcntl.LOCK_SH, True)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(users, kind | fcntl.LOCK_NB)
            fcntl.flock(users, fcntl.LOCK_UN)
            return is_used_if_free
    return False
