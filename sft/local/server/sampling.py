"""Sampling and compute_logprobs, beside training: one batch, then a cycle's turn, then the next.

A batch beside training is about as much work as a cycle: each gets half of the time.

Samplers are loaded into the engine when they are first used. Those of checkpoints and snapshots
take memory, so the least recently used make room: a checkpoint's is read again when it is needed,
a snapshot is lost (the SDK has no way to release one, so their number is bounded here).
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tinker import types

from sft.local.engine_api import AdapterState, EngineError, SampleResult, SampleWork
from sft.local.server import wire
from sft.local.server.backend import Backend
from sft.local.server.futures import Futures
from sft.local.server.queues import Sampler
from sft.local.server.store import CheckpointPath, StoreError

MOST_SNAPSHOTS = 4  # of one session
MOST_LOADED = 16  # samplers of checkpoints in the engine
LARGEST_BATCH = 8192  # tokens to read and to write
SMALLEST_BATCH = 512  # tokens a batch may have, even if very little is trained
UNKNOWN_LENGTH = 256  # what a sample without max_tokens is taken to write


@dataclass(eq=False)
class SampleRequest:
    request_id: str
    sampler: Sampler
    work: SampleWork
    asked: types.SampleRequest

    @property
    def cost(self) -> int:
        length = self.work.max_tokens if self.work.max_tokens is not None else UNKNOWN_LENGTH
        return len(self.work.prompt) + self.work.num_samples * length


class LoadedSamplers:
    """The samplers that are in the engine. `samplers` are those of all open sessions."""

    def __init__(self, backend: Backend, samplers: Callable[[], list[Sampler]]):
        self._backend = backend
        self._engine = backend.engine
        self._samplers = samplers

    async def load(self, sampler: Sampler) -> None:
        """Into the engine, if it is not there yet. Raises `EngineError` or `StoreError`."""
        sampler.last_used = time.monotonic()
        if sampler.is_resident:
            return
        if sampler.is_snapshot:
            raise StoreError(
                f"the snapshot {sampler.sampler_id} was released: the local service keeps the last "
                f"{MOST_SNAPSHOTS} of a session; save_weights_for_sampler keeps weights for good"
            )
        state = None
        if sampler.path is not None:
            path = CheckpointPath.parse(sampler.path)
            state = await self._backend.on_disk(self._backend.store.read, path)
            loaded = [other for other in self._samplers() if other.is_resident and other.path]
            await self._make_room(loaded, MOST_LOADED - 1)
        await self._add(sampler, state)

    async def add_snapshot(self, sampler: Sampler, state: AdapterState) -> None:
        """Called within a cycle. Raises `EngineError`."""
        session = [
            other
            for other in self._samplers()
            if other.is_snapshot and other.is_resident and other.session_id == sampler.session_id
        ]
        await self._make_room(session, MOST_SNAPSHOTS - 1)
        await self._add(sampler, state)

    async def _add(self, sampler: Sampler, state: AdapterState | None) -> None:
        sampler_id, base_model = sampler.sampler_id, sampler.base_model
        await self._backend.compute(self._engine.add_sampler, sampler_id, base_model, state)
        sampler.is_resident = True
        sampler.last_used = time.monotonic()
        if sampler.is_closed:
            await self._backend.compute(self._engine.drop_sampler, sampler_id)

    async def _make_room(self, samplers: list[Sampler], most: int) -> None:
        """Drops the least recently used that nobody waits for, until `most` are left."""
        idle = sorted(
            (sampler for sampler in samplers if not sampler.waiting),
            key=lambda sampler: sampler.last_used,
        )
        for sampler in idle[: max(0, len(samplers) - most)]:
            sampler.is_resident = False
            await self._backend.compute(self._engine.drop_sampler, sampler.sampler_id)


class Sampling:
    """Batches of requests, in the order they came.

    `trained_tokens` says how much training has done since the last batch.
    """

    def __init__(
        self,
        backend: Backend,
        futures: Futures,
        samplers: LoadedSamplers,
        trained_tokens: Callable[[], int],
    ):
        self._backend = backend
        self._futures = futures
        self._samplers = samplers
        self._trained_tokens = trained_tokens
        self._queue: deque[SampleRequest] = deque()
        self._queued = asyncio.Event()

    def add(self, request: SampleRequest) -> None:
        request.sampler.waiting += 1
        self._queue.append(request)
        self._queued.set()

    def cancel(self, request_id: str) -> None:
        """Takes a request that has not begun off the queue."""
        for request in self._queue:
            if request.request_id == request_id:
                self._queue.remove(request)
                request.sampler.waiting -= 1
                self._futures.fail(request_id, "cancelled by the client")
                return

    async def run(self) -> None:
        """Batch after batch, until cancelled."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while batch := self._take():
                try:
                    await self._sample(batch)
                except Exception as error:  # a bug here fails these requests, not the service
                    traceback.print_exc()
                    for request in batch:
                        message = f"internal error of the local service: {error!r}"
                        self._futures.fail(request.request_id, message, user=False)
                for request in batch:
                    request.sampler.waiting -= 1

    def _take(self) -> list[SampleRequest]:
        trained = self._trained_tokens()
        most = LARGEST_BATCH
        if trained:  # forward and backward cost two to three times a forward
            most = max(SMALLEST_BATCH, min(most, 2 * trained))
        batch: list[SampleRequest] = []
        tokens = 0
        while self._queue and (not batch or tokens + self._queue[0].cost <= most):
            request = self._queue.popleft()
            if self._futures.is_pending(request.request_id):  # its session may have ended
                batch.append(request)
                tokens += request.cost
        return batch

    async def _sample(self, batch: list[SampleRequest]) -> None:
        ready = []
        for request in batch:
            try:
                await self._samplers.load(request.sampler)
                ready.append(request)
            except (EngineError, StoreError) as error:
                self._futures.fail(request.request_id, str(error))
        results: list[SampleResult | EngineError] = []
        if ready:
            async with self._backend.busy:
                try:
                    works = [request.work for request in ready]
                    results = await self._backend.compute(self._backend.engine.sample, works)
                except EngineError as error:
                    results = [error] * len(ready)
        for request, result in zip(ready, results, strict=True):
            if isinstance(result, EngineError):
                self._futures.fail(request.request_id, result.message, result.user)
            else:
                reply = wire.sample_reply(result, request.asked)
                self._futures.resolve(request.request_id, reply)
