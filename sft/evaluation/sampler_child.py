"""A process that makes the requests of evaluations for another one (see `sampler.py`).

It reads pickled tuples from its parent, and ends when they do:

    ("client", KEY, CLIENT)                       a sampling client, which the SDK lets be pickled
    ("ask", NUMBER, KEY, METHOD, ARGS, OPTIONS)   a request to make with it
    ("cancel", NUMBER)                            nobody waits for the answer any more
    ("forget", KEY)                               nothing more is asked of the client

and writes (NUMBER, True, ANSWER) for each request, or (NUMBER, False, None) if it has failed.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from concurrent.futures import Future
from functools import partial
from typing import IO, Any

from sft.models import without_torch
from sft.service import proxies

NICENESS = 10
BY_HAND = (
    "sft.evaluation.sampler_child: this is a process that asks a service what the evaluations of "
    "another process want to know; that one starts it when they are many"
)


class Asker:
    """Clients by key, and the requests under way by number."""

    def __init__(self, answers: IO[bytes]):
        self._answers = answers
        self._lock = threading.Lock()
        self._clients: dict[int, Any] = {}
        self._asked: dict[int, Future[Any]] = {}

    def client(self, key: int, client: Any) -> None:
        self._clients[key] = client

    def forget(self, key: int) -> None:
        self._clients.pop(key, None)

    def ask(
        self, number: int, key: int, method: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        try:
            future = getattr(self._clients[key], method)(*args, **options).future()
        except Exception:  # its user hears of it by asking again
            self._answer(number, False, None)
            return
        self._asked[number] = future
        future.add_done_callback(partial(self._answered, number))

    def cancel(self, number: int) -> None:
        if (future := self._asked.pop(number, None)) is not None:
            future.cancel()

    def _answered(self, number: int, future: Future[Any]) -> None:
        self._asked.pop(number, None)
        if future.cancelled():
            return
        failed = future.exception() is not None
        self._answer(number, not failed, None if failed else future.result())

    def _answer(self, *message: Any) -> None:
        with self._lock:
            self._answers.write(pickle.dumps(message))
            self._answers.flush()


def main() -> int:
    if sys.stdin is None or sys.stdin.isatty() or sys.argv[1:]:
        print(BY_HAND, file=sys.stderr)
        return 2
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    without_torch.begin()
    # Nothing that a library prints may be taken for an answer.
    asker = Asker(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    proxies.sdk_without_proxies("http://127.0.0.1")
    questions = sys.stdin.buffer
    try:
        while True:
            kind, *values = pickle.load(questions)
            getattr(asker, kind)(*values)
    except EOFError:
        os._exit(0)  # whatever threads the SDK has


if __name__ == "__main__":
    sys.exit(main())
