"""A local Tinker service for as long as it is needed: started here, or joined if one is there.

    with service.local(root, {"my-model": "/data/my-model"}) as url:
        client = tinker.ServiceClient(base_url=url, api_key=service.api_key(url))

Whoever uses the service holds a shared lock on ROOT/users.lock. The kernel lets go of it when the
process ends, however it ends, and the service ends itself when nobody holds it any more: there is
no pipe to inherit by mistake and no thread whose death would count.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
END_SECONDS = 15.0  # for a service nobody uses to write what it has and go
LOG_TAIL_LINES = 12

_keys: dict[str, str] = {}  # of services that this process started or joined, by URL
_held: set[int] = set()  # open users.lock files


def _let_go() -> None:
    """A forked child is no user: it may outlive its parent."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class ServiceUnavailable(Exception):
    """The local service could not be started or joined; the message says why and what to do."""


@dataclass(frozen=True)
class _Running:
    """What ROOT/service.json says (see sft/local/server.py)."""

    url: str
    key: str
    models: dict[str, str | None]
    dtype: str
    pid: int


def api_key(base_url: str | None) -> str | None:
    """The key of a local service that this process uses; None: the SDK finds its own."""
    return _keys.get(base_url) if base_url is not None else None


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
    the file `log` (default ROOT/service.log).

    Raises:
        ServiceUnavailable: it did not start, or one that runs there serves something else.
    """
    root = Path(root).absolute()
    models = {name: folder and os.path.abspath(folder) for name, folder in models.items()}
    log = log or root / "service.log"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceUnavailable(f"cannot make the service's root {root}: {error}") from error
    with _using(root) as users:
        child = None
        with _starting(root):
            while (running := _find_or_wait(root)) is None:
                child = _start(root, models, dtype, python, log)
                _wait_until_ready(root, child, log)
        if child is None or running.pid != child.pid:
            _check_fit(root, running, models, dtype)
        _keys[running.url] = running.key
        try:
            yield running.url
        finally:
            _leave(users, child)


@contextlib.contextmanager
def _using(root: Path) -> Iterator[int]:
    """Holds the lock that keeps a service alive; waits while an older one is ending."""
    users = _lock(root / "users.lock", fcntl.LOCK_SH)
    _held.add(users)
    try:
        yield users
    finally:
        if users in _held:
            _held.remove(users)
            os.close(users)


@contextlib.contextmanager
def _starting(root: Path) -> Iterator[None]:
    """One at a time looks whether there is a service and starts one if not."""
    lock = _lock(root / "start.lock", fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _lock(path: Path, kind: int) -> int:
    """The open file, locked; raises BlockingIOError where `kind` says not to wait."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceUnavailable(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError as error:
        os.close(file)
        raise ServiceUnavailable(
            f"cannot lock {path}: {error.strerror}; the service's root must be on a local disk"
        ) from error
    return file


def _find(root: Path) -> _Running | None:
    """The service that runs on this root, if it answers to its key."""
    try:
        running = _Running(**json.loads((root / "service.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return running if _is_healthy(running) else None


def _find_or_wait(root: Path) -> _Running | None:
    """None only once no service has the root: one may be starting by another hand, or ending."""
    while (running := _find(root)) is None and _is_taken(root):
        time.sleep(POLL_SECONDS)
    return running


def _is_taken(root: Path) -> bool:
    """Whether a service holds its lock on the root."""
    try:
        os.close(_lock(root / "server.lock", fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    return False


def _is_healthy(running: _Running) -> bool:
    address = urllib.parse.urlsplit(running.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.request("GET", "/api/v1/healthz", headers={"X-API-Key": running.key})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _check_fit(root: Path, running: _Running, models: dict, dtype: str) -> None:
    lacking = {
        name: folder
        for name, folder in models.items()
        if name not in running.models or folder not in (None, running.models[name])
    }
    if lacking or dtype != running.dtype:
        wanted = ", ".join(lacking or models)
        raise ServiceUnavailable(
            f"a local service (process {running.pid}) runs on {root} and serves "
            f"{', '.join(running.models)} in dtype {running.dtype}; {wanted} in dtype {dtype} was "
            "asked for. Wait until its runs have ended, or use another folder (service.root)"
        )


def _start(
    root: Path, models: dict[str, str | None], dtype: str, python: str, log: Path
) -> subprocess.Popen:
    command = [python, "-m", "sft.local", "--root", str(root), "--dtype", dtype, "--until-unused"]
    for name, folder in models.items():
        command += ["--model", name if folder is None else f"{name}={folder}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("TINKER_API_KEY", None)  # of the hosted service: none of a child's business
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is the harness's alone
            )
    except OSError as error:
        raise ServiceUnavailable(f"cannot start the local service: {error}") from error


def _wait_until_ready(root: Path, child: subprocess.Popen, log: Path) -> None:
    """As long as it takes: a first start may load a large model.

    Also returns if the child ended because an older service, whose harness was killed while it
    was starting, has taken the root.
    """
    try:
        while child.poll() is None:
            running = _find(root)
            if running is not None and running.pid == child.pid:
                return
            time.sleep(POLL_SECONDS)
    except BaseException:  # Ctrl-C while it loads
        child.kill()
        child.wait()
        raise
    if not _is_taken(root):
        raise ServiceUnavailable(
            f"the local service ended with code {child.returncode} before it was ready: "
            f"{_last_words(log)}"
        )


def _last_words(log: Path) -> str:
    """The error that the service printed, or else the end of its log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    if lines and lines[-1].startswith("error: "):
        return f"{lines[-1].removeprefix('error: ')} (its log: {log})"
    return "\n  ".join([f"the end of its log {log}:", *lines[-LOG_TAIL_LINES:]])


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
