"""Results by request id: every POST is answered at once with an id, the result is fetched later.

A result is kept until some minutes after it was fetched (the answer may have got lost on its way),
and an unfetched one as long as there is room; then the oldest go first. All of it lives on the
event loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reply:
    """A result as it goes over the wire."""

    body: bytes
    media_type: str = "application/json"

    @staticmethod
    def of(**values: object) -> Reply:
        return Reply(json.dumps(values, allow_nan=False).encode())

    @staticmethod
    def failure(message: str, user: bool) -> Reply:
        """What the SDK turns into `RequestFailedError`, with category user or server."""
        return Reply.of(error=message, category="user" if user else "server")


@dataclass
class Future:
    request_id: str
    session_id: str
    kind: str  # for people: forward_backward, save_weights, ...
    reply: Reply | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: float | None = None  # when first

    @property
    def size(self) -> int:
        """Bytes of the result, 0 while there is none."""
        return 0 if self.reply is None else len(self.reply.body)


class UnknownRequest(Exception):
    """There is no such request, or its result is no longer kept."""


class Futures:
    def __init__(
        self,
        *,
        keep_bytes: int = 256 << 20,
        keep_fetched: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._keep_bytes = keep_bytes
        self._keep_fetched = keep_fetched
        self._clock = clock
        self._futures: dict[str, Future] = {}  # in the order they came
        self._bytes = 0

    def open(self, request_id: str, session_id: str, kind: str) -> Future:
        future = self._futures[request_id] = Future(request_id, session_id, kind)
        return future

    def is_pending(self, request_id: str) -> bool:
        future = self._futures.get(request_id)
        return future is not None and future.reply is None

    def resolve(self, request_id: str, reply: Reply) -> None:
        """The first answer stays; a future that is gone (its session is) is ignored."""
        future = self._futures.get(request_id)
        if future is None or future.reply is not None:
            return
        future.reply = reply
        future.done.set()
        self._bytes += len(reply.body)
        if self._bytes > self._keep_bytes:
            self._make_room()

    def fail(self, request_id: str, message: str, user: bool = True) -> None:
        self.resolve(request_id, Reply.failure(message, user))

    async def fetch(self, request_id: str, timeout: float) -> Reply | None:
        """The result, or None if it takes longer than `timeout` seconds.

        Raises `UnknownRequest`.
        """
        future = self._futures.get(request_id)
        if future is None:
            raise UnknownRequest(request_id)
        if future.reply is None:
            try:
                await asyncio.wait_for(future.done.wait(), timeout)
            except TimeoutError:
                return None
        if future.fetched is None:
            future.fetched = self._clock()
        return future.reply

    def end_session(self, session_id: str, message: str) -> None:
        """Fails what is pending; results are kept a while for a client that still fetches them."""
        for future in self._futures.values():
            if future.session_id == session_id:
                if future.reply is None:
                    self.resolve(future.request_id, Reply.failure(message, user=False))
                if future.fetched is None:
                    future.fetched = self._clock()

    def sweep(self) -> None:
        """Forgets what was fetched long enough ago."""
        limit = self._clock() - self._keep_fetched
        for future in list(self._futures.values()):
            if future.reply is not None and future.fetched is not None and future.fetched <= limit:
                self._forget(future)

    def _make_room(self) -> None:
        answered = [future for future in self._futures.values() if future.reply is not None]
        answered.sort(key=lambda future: future.fetched is None)  # stable: fetched ones first
        for future in answered[:-1]:
            if self._bytes <= self._keep_bytes * 3 // 4:
                break
            self._forget(future)

    def _forget(self, future: Future) -> None:
        del self._futures[future.request_id]
        self._bytes -= future.size
