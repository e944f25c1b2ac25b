"""Training in clock cycles: what every model has queued is taken and computed together.

A cycle starts as soon as something is queued. It takes the head of each model's queue, calls
`engine.run` once with the work and the optimizer steps of all, then does the saves right behind.
A failed request fails the later ones of its model, until a state is loaded; those of other models
go on.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from sft.local.engine_api import (
    AdamStep,
    AdapterState,
    Answers,
    EngineError,
    LoraSpec,
    Work,
)
from sft.local.server import wire
from sft.local.server.backend import Backend
from sft.local.server.futures import Futures, Reply
from sft.local.server.queues import (
    Create,
    Load,
    Model,
    Operation,
    Refused,
    Request,
    Save,
    Slice,
    Snapshot,
)
from sft.local.server.sampling import LoadedSamplers
from sft.local.server.store import StoreError, unwritable

MOST_WRITES = 4  # states waiting for the disk; each is a copy in memory


class Scheduler:
    """`models` are those alive; `samplers` takes the snapshots."""

    most_writes = MOST_WRITES

    def __init__(
        self,
        backend: Backend,
        futures: Futures,
        samplers: LoadedSamplers,
        models: Callable[[], list[Model]],
    ):
        self.cycle = 0  # how many have begun
        self._backend = backend
        self._engine = backend.engine
        self._futures = futures
        self._samplers = samplers
        self._models = models
        self._queued = asyncio.Event()
        self._trained_tokens = 0
        self._writes: set[asyncio.Task] = set()
        self._reads: set[asyncio.Task] = set()

    def wake(self) -> None:
        """To be called when a request has been queued."""
        self._queued.set()

    def trained_tokens(self) -> int:
        """How many were computed since this was last asked."""
        tokens, self._trained_tokens = self._trained_tokens, 0
        return tokens

    async def run(self) -> None:
        """Cycle after cycle, until cancelled."""
        while True:
            await self._wait()
            self.cycle += 1
            async with self._backend.busy:
                if await self._run_cycle():
                    self.wake()

    async def _wait(self) -> None:
        """Until the next cycle may begin."""
        await self._queued.wait()
        self._queued.clear()

    async def _run_cycle(self) -> bool:
        """Whether there was something to do."""
        parts, most_saves = [], self.most_writes - len(self._writes)
        for model in self._models():
            if (load := model.unread_load()) is not None:
                self._begin_read(load)
            part = model.take(most_saves)
            most_saves -= part.saves()
            if part.requests():
                parts.append(part)
        try:
            await self._serve(parts)
        except Exception as error:  # a bug here fails these requests, not the service
            traceback.print_exc()
            for part in parts:
                self._fail_all(part, f"internal error of the local service: {error!r}")
        return bool(parts)

    async def _serve(self, parts: list[Slice]) -> None:
        for part in parts:
            await self._control(part.model, part.before)
        await self._compute(parts)
        for part in parts:
            await self._control(part.model, part.after)

    # What computes -------------------------------------------------------------------------

    async def _compute(self, parts: list[Slice]) -> None:
        jobs = [
            (part.model, request)
            for part in parts
            for request in part.work
            if self._may_run(part.model, request)
        ]
        steps = [
            (part.model, part.step)
            for part in parts
            if part.step is not None and self._may_run(part.model, part.step)
        ]
        if not jobs and not steps:
            return
        work = [
            Work(model.model_id, one.sequences, one.backward, one.loss)
            for model, one in ((model, request.operation) for model, request in jobs)
        ]
        for item in work:
            self._trained_tokens += sum(len(sequence.tokens) for sequence in item.sequences)
        answers = await self._run(work, [request.operation.params for _, request in steps])
        for (model, request), result in zip(jobs, answers.work, strict=True):
            if isinstance(result, EngineError):
                self._fail(model, request, result, breaks=request.operation.backward)
            else:
                self._futures.resolve(request.request_id, wire.training_reply(result))
        for (model, stepped), taken in zip(steps, answers.steps, strict=True):
            if not self._may_run(model, stepped):
                continue  # its gradient has failed just now
            if isinstance(taken, EngineError):
                self._fail(model, stepped, taken, breaks=True)
            else:
                # JSON has no word for what a diverged step measures.
                finite = {name: value for name, value in taken.items() if math.isfinite(value)}
                self._futures.resolve(stepped.request_id, Reply.of(metrics=finite))

    async def _run(self, work: list[Work], steps: list[AdamStep]) -> Answers:
        """One result or `EngineError` for each, also if the call fails as a whole."""
        try:
            return await self._backend.compute(self._engine.run, work, steps)
        except EngineError as error:
            return Answers([error] * len(work), [error] * len(steps))

    # What creates, loads and saves ---------------------------------------------------------

    async def _control(self, model: Model, requests: Sequence[Request[Operation]]) -> None:
        for request in requests:
            operation = request.operation
            breaks = not isinstance(operation, Save | Snapshot)
            if isinstance(operation, Refused):
                breaks = operation.breaks
            if not isinstance(operation, Load) and not self._may_run(model, request):
                continue
            try:
                await self._control_one(model, request)
            except EngineError as error:
                self._fail(model, request, error, breaks)

    async def _control_one(self, model: Model, request: Request[Operation]) -> None:
        operation = request.operation
        if isinstance(operation, Refused):
            raise EngineError(operation.message)
        elif isinstance(operation, Create):
            await self._create(model, operation.lora)
            reply = Reply.of(model_id=model.model_id, type="create_model")
            self._futures.resolve(request.request_id, reply)
        elif isinstance(operation, Load):
            await self._load(model, operation)
            path, model_id = str(operation.path), model.model_id
            reply = Reply.of(path=path, model_id=model_id, type="load_weights")
            self._futures.resolve(request.request_id, reply)
        elif isinstance(operation, Snapshot):
            state = await self._backend.compute(self._engine.state, model.model_id, False)
            await self._samplers.add_snapshot(operation.sampler, state)
            sampler_id = operation.sampler.sampler_id
            reply = Reply.of(sampling_session_id=sampler_id, type="save_weights_for_sampler")
            self._futures.resolve(request.request_id, reply)
        elif isinstance(operation, Save):
            optimizer = operation.path.kind == "weights"
            state = await self._backend.compute(self._engine.state, model.model_id, optimizer)
            self._begin_write(model, request, operation, state)

    async def _create(self, model: Model, lora: LoraSpec) -> None:
        create = self._engine.create_adapter
        await self._backend.compute(create, model.model_id, model.base_model, lora)
        model.is_created = True

    async def _load(self, model: Model, load: Load) -> None:
        state, load.found = load.found, None  # not kept in memory beside the adapter
        if not isinstance(state, AdapterState):
            raise EngineError(str(state))
        if load.optimizer and state.optimizer is None:
            raise EngineError(f"{load.path} holds no optimizer state: load its weights alone")
        if load.creates:
            model.base_model = load.base_model or state.base_model
            model.lora = state.lora
            state = replace(state, base_model=model.base_model)
            await self._create(model, state.lora)
        await self._backend.compute(self._engine.load, model.model_id, state, load.optimizer)
        model.broken = None

    def _begin_read(self, load: Load) -> None:
        async def read() -> None:
            try:
                load.found = await reading
            except StoreError as error:
                load.found = error
            except Exception as error:  # it must be answered, or its client waits for ever
                traceback.print_exc()
                load.found = StoreError(f"{load.path} cannot be read: {error!r}")

        if not load.is_reading:
            load.is_reading = True
            reading = self._backend.on_disk(self._backend.store.read, load.path, load.optimizer)
            self._keep(self._reads, read())

    def _begin_write(
        self, model: Model, request: Request[Operation], save: Save, state: AdapterState
    ) -> None:
        store = self._backend.store
        writing = self._backend.on_disk(
            store.write, save.path, state,
            ttl_seconds=save.ttl_seconds, user_metadata=save.user_metadata,
            run_metadata=model.user_metadata, overwrite=save.overwrite,
        )  # fmt: skip

        async def write() -> None:
            try:
                await writing
            except StoreError as error:
                self._futures.fail(request.request_id, str(error))
            except Exception as error:
                # Of the disk, by safetensors' own errors too. It will come again until somebody
                # mends it: the client is not told to try again.
                message = unwritable(save.path, store.root, error)
                self._futures.fail(request.request_id, message)
            else:
                reply = Reply.of(path=str(save.path), type=request.kind)
                self._futures.resolve(request.request_id, reply)

        self._keep(self._writes, write())

    def _keep(self, tasks: set[asyncio.Task], coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` as one of `tasks`; the next cycle begins once it is none of them."""

        def ended(task: asyncio.Task) -> None:
            tasks.discard(task)
            self.wake()

        task = asyncio.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(ended)

    # What fails ----------------------------------------------------------------------------

    def _may_run(self, model: Model, request: Request[Operation]) -> bool:
        """Fails the request instead if one that it depends on has failed."""
        if model.broken is not None:
            self._futures.fail(
                request.request_id,
                f"{request.kind} was not done, because an earlier request of this model failed: "
                f"{model.broken.message}. Create a training client from a saved state to go on.",
                model.broken.user,
            )
        return model.broken is None

    def _fail_all(self, part: Slice, message: str) -> None:
        for request in part.requests():
            self._futures.fail(request.request_id, message, user=False)
        part.model.broken = part.model.broken or EngineError(message, user=False)

    def _fail(
        self, model: Model, request: Request[Operation], error: EngineError, breaks: bool
    ) -> None:
        self._futures.fail(request.request_id, error.message, error.user)
        if breaks and model.broken is None:
            reason = f"{request.kind} (request {request.seq_id}): {error.message.rstrip('.')}"
            model.broken = EngineError(reason, error.user)
