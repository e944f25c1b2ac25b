"""The Tinker API over HTTP: routes, the key, bodies in, answers out.

The SDK retries 408, 409, 429 and 5xx for minutes, so none of them is used for what a repetition
cannot mend: 401 wrong key, 404 no such thing, 410 it was here (or may have been) and is gone, 413
too large, 422 cannot be served as it is. Each carries a sentence as `detail`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import traceback
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from tinker import types
from tinker.types.try_again_response import TryAgainResponse

from sft.local.server import downloads, rest, wire
from sft.local.server.bodies import answer, read_body, read_message
from sft.local.server.core import Core
from sft.local.server.downloads import Signatures
from sft.local.server.futures import UnknownRequest
from sft.local.server.sessions import Gone
from sft.local.server.store import BadTtl, CheckpointPath, StoreError

LONGEST_POLL = 40.0  # seconds; the SDK hangs up after 45
MOST_SAMPLES = 64  # under way at once, of one sampling client


Refusal = Callable[[Request, Exception], Awaitable[Response]]


def make_app(core: Core, key: str) -> ASGIApp:
    """The ASGI application; every request must bring `key`, as X-API-Key or as a bearer token."""
    handlers = Handlers(core)
    posts = {
        "create_session": handlers.create_session,
        "session_heartbeat": handlers.heartbeat,
        "sessions/{session_id}/finish": handlers.finish,
        "client/config": handlers.client_config,
        "client/dynamic_config": handlers.dynamic_config,
        "telemetry": handlers.telemetry,
        "create_model": handlers.create_model,
        "get_info": handlers.get_info,
        "forward_backward": handlers.forward_backward,
        "optim_step": handlers.optim_step,
        "save_weights": handlers.save_weights,
        "save_weights_for_sampler": handlers.save_weights_for_sampler,
        "save_weights_external": handlers.save_weights_external,
        "load_weights": handlers.load_weights,
        "create_sampling_session": handlers.create_sampling_session,
        "join_sampling_session": handlers.join_sampling_session,
        "asample": handlers.asample,
        "retrieve_future": handlers.retrieve_future,
        "cancel_future": handlers.cancel_future,
    }
    routes = [Route(f"/api/v1/{path}", call, methods=["POST"]) for path, call in posts.items()]
    signatures = Signatures(key)
    routes += rest.routes(core) + downloads.routes(core.store, signatures)
    errors: dict[type[Exception], Refusal] = {
        HTTPException: _refuse_http,
        wire.BadRequest: _refuse(422),
        StoreError: _refuse(404),
        BadTtl: _refuse(422),
        Gone: _refuse(410),
        ClientDisconnect: _refuse(422),  # nobody reads it
    }
    return Guard(Starlette(routes=routes, exception_handlers=errors), key, signatures)


class Guard:
    """Answers 401 to whoever brings neither the key nor a signed URL, before anything is read.

    A bug is answered with 400 and a sentence: the SDK would repeat a request that got a 500 for
    minutes, and get the same.
    """

    def __init__(self, app: ASGIApp, key: str, signatures: Signatures):
        self.app = app
        self._key = key.encode()
        self._signatures = signatures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        app = self.app
        if not self._is_right(dict(scope["headers"])) and not self._is_signed(scope):
            detail = "the key is missing or wrong: set TINKER_API_KEY to this service's key"
            app = JSONResponse({"detail": detail}, 401)
        try:
            await app(scope, receive, send)
        except Exception as error:
            traceback.print_exception(error)
            detail = f"internal error of the local service: {type(error).__name__}: {error}"
            with contextlib.suppress(RuntimeError):  # an answer has begun already
                await JSONResponse({"detail": detail}, 400)(scope, receive, send)

    def _is_right(self, headers: dict[bytes, bytes]) -> bool:
        bearer = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        given = headers.get(b"x-api-key", bearer)
        return hmac.compare_digest(given, self._key)

    def _is_signed(self, scope: Scope) -> bool:
        if scope["method"] not in ("GET", "HEAD") or not scope["path"].startswith(downloads.FOLDER):
            return False
        given = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        expires, signature = given.get("expires", ""), given.get("signature", "")
        return self._signatures.is_right(scope["path"], expires, signature)


class Handlers:
    def __init__(self, core: Core):
        self._core = core

    async def create_session(self, request: Request) -> Response:
        message = await read_message(request, types.CreateSessionRequest)
        session = self._core.sessions.open(message.user_metadata, message.display_name)
        return answer(types.CreateSessionResponse(session_id=session.session_id))

    async def heartbeat(self, request: Request) -> Response:
        message = await read_message(request, types.SessionHeartbeatRequest)
        self._core.sessions.get(message.session_id)
        return answer(types.SessionHeartbeatResponse())

    async def finish(self, request: Request) -> Response:
        session_id = request.path_params["session_id"]
        self._core.sessions.end(session_id, f"session {session_id} was finished by its client")
        return JSONResponse({})

    async def client_config(self, request: Request) -> Response:
        """Each sample under way holds a connection at both ends, so they are bounded; copies of a
        sampling client are numbered here."""
        await read_message(request, types.ClientConfigRequest)
        config = types.ClientConfigResponse(
            sample_max_concurrent_requests=MOST_SAMPLES, sample_join_sampling_session=True
        )
        return answer(config)

    async def dynamic_config(self, request: Request) -> Response:
        return answer(types.ClientDynamicConfigResponse(sample_cancel_enabled=True))

    async def telemetry(self, request: Request) -> Response:
        """Accepted and dropped."""
        async for _ in request.stream():
            pass
        return answer(types.TelemetryResponse(status="accepted"))

    async def create_model(self, request: Request) -> Response:
        message = await read_message(request, types.CreateModelRequest)
        return answer(self._core.create_model(message))

    async def get_info(self, request: Request) -> Response:
        message = await read_message(request, types.GetInfoRequest)
        return answer(self._core.get_info(message.model_id))

    async def forward_backward(self, request: Request) -> Response:
        """Data that do not fit fail in their turn, too: no seq_id is left open."""
        message = await asyncio.to_thread(wire.parse_training, await read_body(request))
        longest = self._core.longest(message.model_id)
        try:
            loss, sequences = await asyncio.to_thread(wire.training_data, message, longest)
        except wire.BadRequest as error:
            return answer(self._core.refuse(message, error))
        return answer(self._core.compute(message, loss, sequences))

    async def optim_step(self, request: Request) -> Response:
        message = await read_message(request, types.OptimStepRequest)
        return answer(self._core.optim_step(message))

    async def save_weights(self, request: Request) -> Response:
        message = await read_message(request, types.SaveWeightsRequest)
        return answer(self._core.save_weights(message))

    async def save_weights_for_sampler(self, request: Request) -> Response:
        message = await read_message(request, types.SaveWeightsForSamplerRequest)
        return answer(self._core.save_weights_for_sampler(message))

    async def save_weights_external(self, request: Request) -> Response:
        message = await read_message(request, types.SaveWeightsExternalRequest)
        return answer(self._core.save_external(message))

    async def load_weights(self, request: Request) -> Response:
        message = await read_message(request, types.LoadWeightsRequest)
        return answer(self._core.load_weights(message))

    async def create_sampling_session(self, request: Request) -> Response:
        message = await read_message(request, types.CreateSamplingSessionRequest)
        base_model = None
        if message.model_path is not None:
            path = CheckpointPath.parse(message.model_path)
            base_model = (await asyncio.to_thread(self._core.store.get, path)).base_model
        sampler_id = self._core.create_sampling_session(message, base_model)
        return answer(types.CreateSamplingSessionResponse(sampling_session_id=sampler_id))

    async def join_sampling_session(self, request: Request) -> Response:
        message = await read_message(request, types.JoinSamplingSessionRequest)
        sampler = self._core.sessions.sampler(message.sampling_session_id)
        sampler.clones += 1
        return answer(types.JoinSamplingSessionResponse(client_counter=sampler.clones))

    async def asample(self, request: Request) -> Response:
        message = await read_message(request, types.SampleRequest)
        return answer(self._core.sample(message))

    async def retrieve_future(self, request: Request) -> Response:
        """The result as soon as there is one. A 408 says "ask again", and the SDK does so
        silently; for each `try_again` answer it would log a warning."""
        message = await read_message(request, types.FutureRetrieveRequest)
        try:
            reply = await self._core.futures.fetch(message.request_id, LONGEST_POLL)
        except UnknownRequest:
            detail = (
                f"request {message.request_id} is not known here, or its result is no longer kept"
            )
            return JSONResponse({"detail": detail}, 410)
        if reply is None:
            pending = TryAgainResponse(request_id=message.request_id, queue_state="active")
            return JSONResponse(pending.model_dump(), 408)
        return Response(reply.body, media_type=reply.media_type)

    async def cancel_future(self, request: Request) -> Response:
        message = await read_message(request, types.FutureRetrieveRequest)
        self._core.sampling.cancel(message.request_id)
        return JSONResponse({})


def _refuse(status: int) -> Refusal:
    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": str(error)}, status)

    return refuse


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # starlette calls it for no other
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"the local service does not serve {request.method} {request.url.path}"
    return JSONResponse({"detail": detail}, error.status_code)
