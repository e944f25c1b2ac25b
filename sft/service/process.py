"""The process behind a local service: find it on its root, start it, wait until it is ready.

Locks on files of the root say what is true without a message: `users.lock` is shared by all that
use the service, `server.lock` is held by the service for life, `start.lock` by who starts one.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft.stages.stages import Stage, stage

POLL_SECONDS = 0.05
LOG_TAIL_LINES = 12
KEY_VARIABLE = "SFT_SERVICE_KEY"  # see sft/local/__main__.py


class ServiceUnavailable(Exception):
    """The local service could not be started or joined; the message says why and what to do."""


@dataclass(frozen=True)
class Running:
    """What ROOT/service.json says (see sft/local/server/server.py)."""

    url: str
    key: str
    models: dict[str, str | None]
    dtype: str
    warnings: list[str]
    pid: int

    def is_healthy(self) -> bool:
        address = urllib.parse.urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("GET", "/api/v1/healthz", headers={"X-API-Key": self.key})
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@dataclass(frozen=True)
class Wanted:
    """The service to run: `models` are names and their folders, or None for the Hub's."""

    root: Path
    models: dict[str, str | None]
    dtype: str
    python: str
    log: Path

    def obtain(self, like: Running | None = None) -> tuple[Running, subprocess.Popen | None]:
        """The service on the root, and its process if it was started here.

        `like` is one that has died: a new one takes its address and key, and serves what it did.

        Raises `ServiceUnavailable` if it cannot be started, or serves something else, and `GivenUp`
        if it is no longer wanted.
        """
        child = None
        with starting(self.root):
            while (running := self._find_or_wait()) is None:
                child = self._start(like)
                with stage("starting the local service") as now:
                    self._wait_until_ready(child, now)
        if child is not None and running.pid != child.pid:
            child = None
        if child is None:
            self._check_fit(running)
        return running, child

    def _find_or_wait(self) -> Running | None:
        """The service on the root; None only once no process has the root.

        Another process may be starting a service there, or one may be ending.
        """
        if (running := self._find()) is not None:
            return running
        with stage("waiting for the local service") as now:
            while (running := self._find()) is None and is_taken(self.root):
                now.reached()
                time.sleep(POLL_SECONDS)
        return running

    def _find(self) -> Running | None:
        """The service that runs on this root, if it answers to its key."""
        try:
            running = Running(**json.loads((self.root / "service.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return running if running.is_healthy() else None

    def _check_fit(self, running: Running) -> None:
        lacking = [
            name
            for name, folder in self.models.items()
            if name not in running.models or folder not in (None, running.models[name])
        ]
        if lacking or self.dtype != running.dtype:
            wanted = ", ".join(lacking or self.models)
            raise ServiceUnavailable(
                f"a local service (process {running.pid}) runs on {self.root} and serves "
                f"{', '.join(running.models)} in dtype {running.dtype}; {wanted} in dtype "
                f"{self.dtype} was asked for. Wait until its runs have ended, or use another "
                "folder (service.root)"
            )

    def _start(self, like: Running | None) -> subprocess.Popen:
        command = [self.python, "-m", "sft.local", "--until-unused"]
        command += ["--root", str(self.root), "--dtype", self.dtype]
        for name, folder in (like or self).models.items():
            command += ["--model", name if folder is None else f"{name}={folder}"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("TINKER_API_KEY", None)  # of the hosted service: none of a child's business
        if like is not None:
            command += ["--port", str(urllib.parse.urlsplit(like.url).port)]
            environment[KEY_VARIABLE] = like.key
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "ab") as output:
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

    def _wait_until_ready(self, child: subprocess.Popen, now: Stage) -> None:
        """Wait as long as it takes: a first start may load a large model.

        Also returns if the child ended because an older service has taken the root: its harness was
        killed while it was starting. Raises `ServiceUnavailable` if it ended for another reason.
        """
        try:
            while child.poll() is None:
                running = self._find()
                if running is not None and running.pid == child.pid:
                    return
                now.reached(*self._how_far(child))
                time.sleep(POLL_SECONDS)
        except BaseException:  # Ctrl-C while it loads, or it is no longer wanted
            child.kill()
            child.wait()
            raise
        if not is_taken(self.root):
            raise ServiceUnavailable(
                f"the local service ended with code {child.returncode} before it was ready: "
                f"{self._last_words()}"
            )

    def _how_far(self, child: subprocess.Popen) -> tuple[int, int] | tuple[()]:
        """Parts of the model that the child has loaded, and how many there are, once it says so."""
        try:
            said = json.loads((self.root / "loading.json").read_text())
            return (said["done"], said["parts"]) if said["pid"] == child.pid else ()
        except (OSError, ValueError, KeyError):
            return ()

    def _last_words(self) -> str:
        """The error that the service printed, or else the end of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        if lines and lines[-1].startswith("error: "):
            return f"{lines[-1].removeprefix('error: ')} (its log: {self.log})"
        return "\n  ".join([f"the end of its log {self.log}:", *lines[-LOG_TAIL_LINES:]])


@contextmanager
def starting(root: Path) -> Iterator[None]:
    """One at a time looks whether there is a service and starts one if not."""
    file = lock(root / "start.lock", fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


def is_taken(root: Path) -> bool:
    """Whether a service holds its lock on the root."""
    try:
        os.close(lock(root / "server.lock", fcntl.LOCK_SH | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    return False


def lock(path: Path, kind: int) -> int:
    """Open the file at `path` and lock it.

    Raises `BlockingIOError` if another holds the lock and `kind` says not to wait, and
    `ServiceUnavailable` if the file cannot be opened or locked.
    """
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
