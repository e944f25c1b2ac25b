"""The one thread of this process that talks to MLflow.

It takes runs as they have something to send. A store that does not answer is warned of once and
tried again later, ever less often; meanwhile what is missed stays in the run directories.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import traceback

from sft.secrets import mask_urls
from sft.tracking.mirror import Mirror
from sft.tracking.store import Store

logger = logging.getLogger("sft.tracking")

ATTEMPTS_AT_THE_END = 3
"""After so many refusals a flush gives up before its time: the store is away, not slow."""
AT_EXIT_SECONDS = 15.0
REST = 3.0
"""Times as long as it has computed the thread rests, unless somebody waits for it: steps need
Python, too. What comes meanwhile goes in one batch: the more there is, the less it costs."""


class Writer:
    """Sends what the mirrors hold, in one daemon thread that starts with the first of them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._mirrors: list[Mirror] = []
        self._stores: dict[str, Store] = {}
        self._thread: threading.Thread | None = None
        self._quiet = False
        self._flushing = 0
        """How many wait in `flush`."""

    def store(self, uri: str) -> Store:
        """The store at `uri`, one object a process."""
        made = Store(uri)
        with self._condition:
            return self._stores.setdefault(made.uri, made)

    def add(self, mirror: Mirror) -> None:
        """Begin to send `mirror`."""
        with self._condition:
            self._mirrors.append(mirror)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="sft-mlflow", daemon=True)
                self._thread.start()
                atexit.register(self._at_exit)
            self._condition.notify_all()

    def wake(self) -> None:
        """A mirror has something new."""
        with self._condition:
            self._condition.notify_all()

    def flush(self, timeout: float) -> list[str]:
        """Wait until everything is sent, at most `timeout` seconds; one sentence a run that isn't.

        A store that refuses connections is given up earlier than one that is slow.
        """
        deadline = time.monotonic() + timeout
        with self._condition:
            before = {uri: store.failures for uri, store in self._stores.items()}

            def waiting(mirror: Mirror) -> bool:
                tries = mirror.store.failures - before.get(mirror.store.uri, 0)
                return mirror.pending and tries < ATTEMPTS_AT_THE_END

            self._flushing += 1
            while any(map(waiting, mirrors := list(self._mirrors))):
                for store in self._stores.values():
                    store.hurry()
                self._condition.notify_all()
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._condition.wait_for(lambda: not any(map(waiting, mirrors)), min(left, 0.5))
            self._flushing -= 1
            return [_unsent(m) for m in self._mirrors if m.pending]

    def _work(self) -> None:
        while True:
            mirror = self._next()
            began = time.thread_time()
            try:
                self._sync(mirror)
            except BaseException as error:  # SystemExit, too: this thread must live to say so
                self._missed(mirror, error)
            else:
                self._sent(mirror)
            with self._condition:
                if mirror.closed:
                    self._mirrors.remove(mirror)
                self._condition.notify_all()
                rest = REST * (time.thread_time() - began)
                self._condition.wait_for(lambda: self._flushing, rest)

    def _next(self) -> Mirror:
        """Wait for a mirror with something to send whose store may be tried; take turns."""
        with self._condition:
            while True:
                pending = [m for m in self._mirrors if m.pending]
                for mirror in pending:
                    mirror.forget_rows_beyond()
                    if mirror.store.waits == 0:
                        self._mirrors.remove(mirror)
                        self._mirrors.append(mirror)
                        return mirror
                shortest = min((m.store.waits for m in pending), default=None)
                self._condition.wait(shortest)

    def _sync(self, mirror: Mirror) -> None:
        if not self._quiet:
            from sft.tracking.store import be_quiet_in_this_thread

            be_quiet_in_this_thread()
            self._quiet = True
        mirror.sync()

    def _missed(self, mirror: Mirror, error: BaseException) -> None:
        before = mirror.store.error
        mirror.store.failed(error)
        if before is None or not (mirror.store.is_at_fault or mirror.store.error == before):
            what, until = "does not answer", "it is back"
            if not mirror.store.is_at_fault:
                what, until = "cannot be told of this run", "that is mended"
            logger.warning(
                "MLflow at %s %s (%s); training goes on, and what it misses is sent when %s",
                mask_urls(mirror.store.uri),
                what,
                mirror.store.error,
                until,
            )
        logger.debug("MLflow: %s", mask_urls("".join(traceback.format_exception(error))))

    def _sent(self, mirror: Mirror) -> None:
        if mirror.store.failures:
            logger.warning("MLflow at %s is back", mask_urls(mirror.store.uri))
        mirror.store.answered()

    def _at_exit(self) -> None:
        for sentence in self.flush(AT_EXIT_SECONDS):
            logger.warning("%s", sentence)


def _unsent(mirror: Mirror) -> str:
    store = mirror.store
    return (
        f"MLflow at {mask_urls(store.uri)} lacks part of {mirror.directory} "
        f"({store.error or 'it is slow'}); `python -m sft.runs {mirror.directory}` sends it when "
        f"{'the store is back' if store.is_at_fault else 'that is mended'}"
    )


_writer = Writer()


def writer() -> Writer:
    """This process's writer."""
    return _writer
