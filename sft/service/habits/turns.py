"""The requests of a model in the order of their numbers, and each of them once.

The SDK numbers a model's requests and may have several on their way at once. A server that goes by
the order in which they come in would train on another batch than the step's, or save other weights.
A repeated request gets the first answer: not every server knows that it has seen it before.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from sft.service.habits.upstream import Answer

GAP_SECONDS = 10.0
"""A number that has not come by then, with nothing else on its way, does not come: its request was
given up."""
MOST_KEPT = 256
"""First answers of a model that stay to be given again."""


class _Model:
    def __init__(self) -> None:
        self.next = 1
        self.waiting: set[int] = set()
        self.under_way = 0
        self.moved = asyncio.Condition()
        self.answers: OrderedDict[tuple[str, int], asyncio.Task[Answer]] = OrderedDict()


class Turns:
    """Of every model that is trained through the proxy."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    async def take(
        self, model_id: str, seq_id: int, endpoint: str, ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """The answer to `ask()`, called once the model's requests before `seq_id` were."""
        model = self._models.setdefault(model_id, _Model())
        key = (endpoint, seq_id)
        task = model.answers.get(key)
        if task is None:
            task = asyncio.create_task(self._in_turn(model, seq_id, ask))
            model.answers[key] = task
            while len(model.answers) > MOST_KEPT:
                model.answers.popitem(last=False)
        answer = await asyncio.shield(task)
        if answer.status >= 400:  # asked again, it may be answered
            model.answers.pop(key, None)
        return answer

    async def _in_turn(
        self, model: _Model, seq_id: int, ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        await self._wait(model, seq_id)
        model.under_way += 1
        try:
            return await ask()
        finally:
            model.under_way -= 1
            async with model.moved:
                model.next = max(model.next, seq_id + 1)
                model.moved.notify_all()

    async def _wait(self, model: _Model, seq_id: int) -> None:
        """Until all before `seq_id` were asked, or do not come."""
        async with model.moved:
            model.waiting.add(seq_id)
            try:
                while model.next < seq_id:
                    was_quiet = not model.under_way
                    try:
                        await asyncio.wait_for(model.moved.wait(), GAP_SECONDS)
                    except TimeoutError:
                        if was_quiet and not model.under_way and seq_id == min(model.waiting):
                            return
            finally:
                model.waiting.discard(seq_id)

    def forget(self, model_id: str) -> None:
        self._models.pop(model_id, None)
