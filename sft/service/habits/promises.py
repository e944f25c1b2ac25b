"""Results that the proxy itself promises: those of requests that it makes up of several."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

from sft.service.habits.upstream import PROTOBUF, Answer, Refused

PREFIX = "sft-"
MOST_KEPT = 10_000
"""Results that stay to be asked for again; the SDK asks twice only if an answer got lost."""


class Promises:
    """By id, as the SDK asks for them."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def promise(self, work: Coroutine[Any, Any, Any]) -> str:
        """The id of the result of `work`, which begins now: JSON, or the bytes of a message."""
        name = f"{PREFIX}{next(self._numbers)}"
        self._tasks[name] = asyncio.create_task(work)
        if len(self._tasks) > MOST_KEPT:
            for old in [n for n, task in self._tasks.items() if task.done()][: MOST_KEPT // 2]:
                del self._tasks[old]
        return name

    async def fetch(self, name: str, seconds: float) -> Answer:
        """The answer to `retrieve_future`; 408, "ask again", after `seconds`."""
        if (task := self._tasks.get(name)) is None:
            return Answer.of({"detail": f"there is no result {name} any more"}, 410)
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            return Answer.of({"type": "try_again", "queue_state": "active"}, 408)
        try:
            result = task.result()
        except Refused as error:
            # As a failed request, not as a status: the SDK would ask for some of them again.
            kind = "user" if 400 <= error.status < 500 else "server"
            return Answer.of({"error": str(error), "category": kind})
        except Exception as error:
            detail = f"the proxy before the server failed: {type(error).__name__}: {error}"
            return Answer.of({"error": detail, "category": "server"})
        if isinstance(result, bytes):
            return Answer(200, result, {"content-type": PROTOBUF})
        return Answer.of(result)
