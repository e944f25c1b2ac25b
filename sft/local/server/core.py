"""The service without HTTP: each request of the SDK becomes an entry in some queue.

Every method here is called on the event loop and returns at once. Ids are derived from what the
client counts itself (`SESSION:train:MODEL_SEQ_ID`, `MODEL:SEQ_ID`). So a repeated request is
recognised by its id alone, as long as its session lives, and answered with that id.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from sft.local.engine_api import Engine, EngineError, LoraSpec, ModelInfo, TrainingSequence
from sft.local.losses import Loss
from sft.local.server import operations, wire
from sft.local.server.backend import Backend
from sft.local.server.futures import Futures
from sft.local.server.queues import (
    Compute,
    Model,
    Operation,
    Refused,
    Request,
    Sampler,
    Snapshot,
)
from sft.local.server.sampling import LoadedSamplers, SampleRequest, Sampling
from sft.local.server.scheduler import Scheduler
from sft.local.server.sessions import Session, Sessions
from sft.local.server.store import Store

GAP_SECONDS = 600.0  # how long a model's requests wait for one that was lost
JANITOR_SECONDS = 5.0
EXPIRY_ROUNDS = 12  # of the janitor, between two looks at every checkpoint's TTL


class Core:
    """Sessions, queues and results around one engine and one store."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        scheduler: Callable[..., Scheduler] = Scheduler,
        session_timeout: float = 300.0,
        futures: Futures | None = None,
    ):
        self.store = store
        self.backend = Backend(engine, store)
        self.futures = futures or Futures()
        self.sessions = Sessions(self._release, timeout=session_timeout)
        self.infos: dict[str, ModelInfo] = {info.name: info for info in engine.models()}
        loaded = LoadedSamplers(self.backend, self.sessions.samplers)
        self.scheduler = scheduler(self.backend, self.futures, loaded, self.sessions.models)
        trained_tokens = self.scheduler.trained_tokens
        self.sampling = Sampling(self.backend, self.futures, loaded, trained_tokens)
        self._tasks: set[asyncio.Task] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves within; on leaving, what was handed to the disk is finished."""
        for loop in (self.scheduler.run, self.sampling.run, self._clean):
            self._spawn(_again_and_again(loop))
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.to_thread(self.backend.close)

    # Models --------------------------------------------------------------------------------

    def create_model(self, request: types.CreateModelRequest) -> types.UntypedAPIFuture:
        return self._open_model(
            self.sessions.get(request.session_id), request, request.base_model,
            operations.lora_spec(request), "create_model", operations.create(request, self.infos),
        )  # fmt: skip

    def compute(
        self, message: pb.ForwardBackwardRequest, loss: Loss, sequences: list[TrainingSequence]
    ) -> types.UntypedAPIFuture:
        """forward or forward_backward, of what `message` holds."""
        operation = Compute(loss, sequences, backward=not message.forward_only)
        return self._submit(message.model_id, message.seq_id, _kind(message), operation)

    def refuse(
        self, message: pb.ForwardBackwardRequest, error: wire.BadRequest
    ) -> types.UntypedAPIFuture:
        """Fails a batch in its turn, and raises `error` at once if that is now.

        A batch in several chunks is sent first chunk last. If another one were refused at once, the
        SDK would never send the first, and wait for its turn for ever.
        """
        is_next = message.seq_id <= self.sessions.model(message.model_id).next_seq
        operation = Refused(str(error), breaks=not message.forward_only)
        future = self._submit(message.model_id, message.seq_id, _kind(message), operation)
        if is_next:
            raise error
        return future

    def optim_step(self, request: types.OptimStepRequest) -> types.UntypedAPIFuture:
        operation = operations.step(request)
        return self._submit(request.model_id, request.seq_id, "optim_step", operation)

    def save_weights(self, request: types.SaveWeightsRequest) -> types.UntypedAPIFuture:
        operation = operations.save(request, "weights", request.overwrite)
        return self._submit(request.model_id, request.seq_id, "save_weights", operation)

    def save_weights_for_sampler(
        self, request: types.SaveWeightsForSamplerRequest
    ) -> types.UntypedAPIFuture:
        if request.path is not None:
            operation = operations.save(request, "sampler_weights", overwrite=False)
        elif request.sampling_session_seq_id is not None:
            operation = Snapshot(self._snapshot(request))
        else:
            raise wire.BadRequest("expected a path, or a sampling_session_seq_id for a snapshot")
        kind = "save_weights_for_sampler"
        return self._submit(request.model_id, request.seq_id, kind, operation)

    def save_external(self, request: types.SaveWeightsExternalRequest) -> types.UntypedAPIFuture:
        operation = operations.save_external(request)
        return self._submit(request.model_id, request.seq_id, "save_weights_external", operation)

    def load_weights(self, request: types.LoadWeightsRequest) -> types.UntypedAPIFuture:
        """Into a model that is there, or as the first request of a new one."""
        operation = operations.load(request, self.infos)
        if request.session_id is not None and request.model_seq_id is not None:
            base_model = request.base_model or ""  # the checkpoint's, once it has been read
            session = self.sessions.get(request.session_id)
            return self._open_model(session, request, base_model, None, "load_weights", operation)
        if request.model_id is None:
            raise wire.BadRequest("expected model_id and seq_id, or session_id and model_seq_id")
        return self._submit(request.model_id, request.seq_id, "load_weights", operation)

    def get_info(self, model_id: str) -> types.GetInfoResponse:
        model = self.sessions.model(model_id)
        info = self.infos.get(model.base_model)
        if not model.is_created or model.lora is None or info is None:
            raise wire.BadRequest(f"model {model_id} was not created: {model.broken or 'not yet'}")
        data = types.ModelData(model_name=info.name, tokenizer_id=info.tokenizer_id)
        return types.GetInfoResponse(
            type="get_info", model_data=data, model_id=model_id, is_lora=True,
            lora_rank=model.lora.rank, model_name=info.name,
        )  # fmt: skip

    def longest(self, model_id: str) -> int:
        """Tokens in the context of the base model of a model that is alive."""
        info = self.infos.get(self.sessions.model(model_id).base_model)
        return info.max_context_length if info is not None else 1 << 31

    def _open_model(
        self,
        session: Session,
        request: types.CreateModelRequest | types.LoadWeightsRequest,
        base_model: str,
        lora: LoraSpec | None,
        kind: str,
        operation: Operation,
    ) -> types.UntypedAPIFuture:
        """A new model with its first request, of seq_id 0."""
        model_id = f"{session.session_id}:train:{request.model_seq_id}"
        if model_id not in session.models:
            metadata = request.user_metadata
            metadata = metadata and {key: str(value) for key, value in metadata.items()}
            model = Model(model_id, session.session_id, base_model, lora, metadata)
            session.models[model_id] = model
            self._enqueue(model, 0, kind, operation)
        return types.UntypedAPIFuture(request_id=f"{model_id}:0", model_id=model_id)

    def _submit(
        self, model_id: str, seq_id: int | None, kind: str, operation: Operation
    ) -> types.UntypedAPIFuture:
        model = self.sessions.model(model_id)
        if seq_id is None or seq_id < 1:
            raise wire.BadRequest(f"seq_id is {seq_id}: expected 1 or more")
        if not model.has_seen(seq_id):
            self._enqueue(model, seq_id, kind, operation)
        return types.UntypedAPIFuture(request_id=f"{model_id}:{seq_id}", model_id=model_id)

    def _enqueue(self, model: Model, seq_id: int, kind: str, operation: Operation) -> None:
        request_id = f"{model.model_id}:{seq_id}"
        self.futures.open(request_id, model.session_id, kind)
        model.add(Request(request_id, seq_id, kind, operation))
        self.scheduler.wake()

    # Samplers ------------------------------------------------------------------------------

    def _snapshot(self, request: types.SaveWeightsForSamplerRequest) -> Sampler:
        model = self.sessions.model(request.model_id)
        session = self.sessions.get(model.session_id)
        sampler_id = f"{session.session_id}:sample:{request.sampling_session_seq_id}"
        sampler = Sampler(sampler_id, session.session_id, model.base_model, is_snapshot=True)
        return session.samplers.setdefault(sampler_id, sampler)

    def create_sampling_session(
        self, request: types.CreateSamplingSessionRequest, base_model_of_path: str | None
    ) -> str:
        """`base_model_of_path`: of the checkpoint that `model_path` names."""
        session = self.sessions.get(request.session_id)
        sampler_id = f"{session.session_id}:sample:{request.sampling_session_seq_id}"
        if sampler_id not in session.samplers:
            base_model = base_model_of_path or request.base_model
            if base_model is None:
                raise wire.BadRequest("expected a base_model or a model_path")
            if wrong := operations.unserved_model(base_model, self.infos):
                raise wire.BadRequest(wrong)
            session.samplers[sampler_id] = Sampler(
                sampler_id, session.session_id, base_model, request.model_path
            )
        return sampler_id

    def sample(self, request: types.SampleRequest) -> types.UntypedAPIFuture:
        if request.sampling_session_id is None or request.seq_id is None:
            raise wire.BadRequest("asample needs a sampling_session_id and a seq_id")
        sampler = self.sessions.sampler(request.sampling_session_id)
        request_id = f"{sampler.sampler_id}:{request.seq_id}"
        if request.seq_id not in sampler.seen:
            longest = self.infos[sampler.base_model].max_context_length
            work = wire.sample_work(request, sampler.sampler_id, longest)
            sampler.seen.add(request.seq_id)
            self.futures.open(request_id, sampler.session_id, "sample")
            self.sampling.add(SampleRequest(request_id, sampler, work, request))
        ids = [f"{request_id}:{index}" for index in range(request.num_samples)]
        return types.UntypedAPIFuture(request_id=request_id, sample_sequence_ids=ids)

    # Housekeeping --------------------------------------------------------------------------

    def end_all(self, message: str) -> None:
        """Every open session ends; whoever waits for a result is told so."""
        for session in self.sessions.all():
            self.sessions.end(session.session_id, message)

    def _release(self, session: Session, message: str) -> None:
        """Frees what a session held, once the cycle that may be using it is over."""
        self.futures.end_session(session.session_id, message)
        for sampler in session.samplers.values():
            sampler.is_closed = True
        self._spawn(self._drop(list(session.models), list(session.samplers)))

    async def _drop(self, models: list[str], samplers: list[str]) -> None:
        engine = self.backend.engine
        async with self.backend.busy:
            jobs: list[tuple[Callable[[str], None], str]] = [
                (engine.drop_adapter, m) for m in models
            ]
            jobs += [(engine.drop_sampler, sampler) for sampler in samplers]
            for call, name in jobs:
                with contextlib.suppress(EngineError):
                    await self.backend.compute(call, name)

    async def _clean(self) -> None:
        for round_number in itertools.count():
            await asyncio.sleep(JANITOR_SECONDS)
            self.sessions.expire()
            self.futures.sweep()
            for model in self.sessions.models():
                if model.early and time.monotonic() - model.gap_since > GAP_SECONDS:
                    model.close_gap()
                    self.scheduler.wake()
            if round_number % EXPIRY_ROUNDS == 0:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self.store.expire)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _kind(message: pb.ForwardBackwardRequest) -> str:
    return "forward" if message.forward_only else "forward_backward"


async def _again_and_again(loop: Callable[[], Awaitable[None]]) -> None:
    """A bug ends one round of a loop, not the service."""
    while True:
        try:
            await loop()
        except Exception:
            traceback.print_exc()
            await asyncio.sleep(1)
