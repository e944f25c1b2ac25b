"""A service that ticks like the hosted one and computes nothing, to see whether ticks are missed.

The real HTTP, queues and scheduler around an engine of constants. The answers to what one tick
takes are given once the next tick has taken what is queued: a step that is submitted after the
answer to the one before it has missed a tick, however fast the machine is.

The clock is the service's own, so that no tick is missed because the machine is slow, or made
because it is fast: before each tick it stands still until every run between its first and last step
has a step queued. A run that waits for an answer first cannot have one, and the clock goes on
without it after `patience` seconds, and does not wait for it any more. Saves and samples are
answered some ticks later still.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sft.local.server.core import Core
from sft.local.server.futures import Futures, Reply
from sft.local.server.queues import Model, Slice, Step
from sft.local.server.scheduler import Scheduler
from sft.local.server.store import Store
from sft.service.habits import trial
from tests.local.stub import KEY, MODEL, StubEngine, serving

PATIENCE = 60.0  # far more than any machine takes to submit a step
POLL_SECONDS = 0.005


class TickEngine(StubEngine):
    """Remembers for each run at which ticks it stepped; `core` is set once it is made.

    What is trained only to try the service out is no run: nothing waits for its next step.
    """

    core: Core

    def __init__(self, model: str):
        super().__init__(model)
        self.ticks: dict[str, list[int]] = defaultdict(list)

    def step(self, model_id: str) -> dict[str, float]:
        session = self.core.sessions.get(model_id.split(":")[0])
        if session.user_metadata != trial.USER_METADATA:
            self.ticks[model_id].append(self.core.scheduler.cycle)
        return super().step(model_id)


class HeldFutures(Futures):
    """Results that are given at a tick after that in which they are there; slow ones later."""

    SLOW = ("sample", "save_weights", "save_weights_for_sampler")

    def __init__(self, delay: int):
        super().__init__()
        self._delay = delay  # ticks
        self._tick = 0
        self._held: list[tuple[int, str, Reply]] = []

    def resolve(self, request_id: str, reply: Reply) -> None:
        future = self._futures.get(request_id)
        slow = (
            future is not None
            and future.kind in self.SLOW
            and b"sampling_session" not in reply.body  # a snapshot is there with its step
        )
        self._held.append((self._tick + 1 + slow * self._delay, request_id, reply))

    def give(self, tick: int) -> None:
        """Give what is due at a tick that has begun."""
        self._tick = tick
        due = [one for one in self._held if one[0] <= tick]
        self._held = [one for one in self._held if one[0] > tick]
        for _, request_id, reply in due:
            super().resolve(request_id, reply)


class TickScheduler(Scheduler):
    """Of runs of `steps` steps; a tick lasts `tick` seconds at least."""

    most_writes = 1 << 30  # of the local service's memory, no matter here
    _engine: TickEngine
    _futures: HeldFutures

    def __init__(self, *parts, steps: int, tick: float, patience: float):
        super().__init__(*parts)
        self._steps, self._shortest, self._patience = steps, tick, patience
        self._given_up: set[str] = set()

    async def _wait(self) -> None:
        await asyncio.sleep(self._shortest)
        end = time.monotonic() + self._patience
        while awaited := [m.model_id for m in self._models() if self._is_awaited(m)]:
            if time.monotonic() >= end:
                self._given_up.update(awaited)
            else:
                await asyncio.sleep(POLL_SECONDS)

    def _is_awaited(self, model: Model) -> bool:
        queued = any(isinstance(request.operation, Step) for request in model.ready)
        under_way = 0 < len(self._engine.ticks.get(model.model_id, [])) < self._steps
        return under_way and not queued and model.model_id not in self._given_up

    async def _serve(self, parts: list[Slice]) -> None:
        """What the tick has taken; `parts` is settled when the answers of the last are given."""
        self._futures.give(self.cycle)
        await super()._serve(parts)
        if self._writes:
            await asyncio.wait(self._writes)


@dataclass(frozen=True)
class TickService:
    url: str
    key: str
    engine: TickEngine

    def used(self, model_id: str | None = None) -> int:
        """Steps of a model (by default of the only one)."""
        return len(self._ticks(model_id))

    def missed(self, model_id: str | None = None) -> int:
        """Ticks between a model's first and last step at which it did not step."""
        ticks = self._ticks(model_id)
        return ticks[-1] - ticks[0] + 1 - len(ticks)

    def _ticks(self, model_id: str | None) -> list[int]:
        if model_id is None:
            (model_id,) = self.engine.ticks
        return self.engine.ticks[model_id]


@contextlib.contextmanager
def running(
    root: Path | None = None,
    *,
    steps: int,
    delay: int = 1,
    tick: float = 0.01,
    patience: float = PATIENCE,
    model: str = MODEL,
) -> Iterator[TickService]:
    """A tick service in a thread of this process, for runs of `steps` steps.

    Samples and named saves take `delay` ticks more; `model` is the name it serves. With a long
    `tick` and no `patience` its clock is the wall's.
    """
    with contextlib.ExitStack() as stack:
        root = root or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = TickEngine(model)
        scheduler = functools.partial(TickScheduler, steps=steps, tick=tick, patience=patience)

        def make_core() -> Core:
            futures = HeldFutures(delay)
            engine.core = Core(engine, Store(root), scheduler=scheduler, futures=futures)
            return engine.core

        url, _ = stack.enter_context(serving(make_core, root))
        yield TickService(url, KEY, engine)
