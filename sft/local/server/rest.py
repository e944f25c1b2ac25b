"""What `tinker.RestClient` asks: models served, sessions, training runs and their checkpoints."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pydantic
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tinker import types

from sft.local.server.bodies import answer, read_message
from sft.local.server.core import Core
from sft.local.server.store import Checkpoint, CheckpointPath, StoreError
from sft.local.server.wire import BadRequest

OWNER = "local"
_TYPES: dict[str, types.CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
_LAST = {"weights": "last_checkpoint", "sampler_weights": "last_sampler_checkpoint"}  # of a run


class WeightsInfoRequest(pydantic.BaseModel):
    tinker_path: str


class TtlRequest(pydantic.BaseModel):
    ttl_seconds: int | None = None


def routes(core: Core) -> list[Route]:
    rest = Rest(core)
    checkpoint = "/api/v1/training_runs/{run}/checkpoints/{kind}/{name}"
    return [
        Route("/api/v1/healthz", rest.healthz),
        Route("/api/v1/get_server_capabilities", rest.capabilities),
        Route("/api/v1/sessions", rest.sessions),
        Route("/api/v1/sessions/{session_id}", rest.session),
        Route("/api/v1/samplers/{sampler_id}", rest.sampler),
        Route("/api/v1/weights_info", rest.weights_info, methods=["POST"]),
        Route("/api/v1/training_runs", rest.training_runs),
        Route("/api/v1/training_runs/{run}", rest.training_run),
        Route("/api/v1/checkpoints", rest.all_checkpoints),
        Route("/api/v1/training_runs/{run}/checkpoints", rest.checkpoints),
        Route(checkpoint, rest.delete, methods=["DELETE"]),
        Route(checkpoint + "/ttl", rest.set_ttl, methods=["PUT"]),
        Route(checkpoint + "/publish", rest.publish, methods=["POST", "DELETE"]),
    ]


class Rest:
    def __init__(self, core: Core):
        self._core = core
        self._store = core.store

    async def healthz(self, request: Request) -> Response:
        return answer(types.HealthResponse(status="ok"))

    async def capabilities(self, request: Request) -> Response:
        models = [
            types.SupportedModel(
                model_name=info.name,
                max_context_length=info.max_context_length,
                trainable=True,
                sampleable=True,
            )
            for info in self._core.infos.values()
        ]
        return answer(types.GetServerCapabilitiesResponse(supported_models=models))

    async def sessions(self, request: Request) -> Response:
        found = [session.session_id for session in self._core.sessions.all()]
        page, _ = _page(request, found)
        return answer(types.ListSessionsResponse(sessions=page))

    async def session(self, request: Request) -> Response:
        session = self._core.sessions.get(request.path_params["session_id"])
        response = types.GetSessionResponse(
            training_run_ids=list(session.models),
            sampler_ids=list(session.samplers),
            user_metadata=session.user_metadata,
            display_name=session.display_name,
        )
        return answer(response)

    async def sampler(self, request: Request) -> Response:
        sampler = self._core.sessions.sampler(request.path_params["sampler_id"])
        response = types.GetSamplerResponse(
            sampler_id=sampler.sampler_id, base_model=sampler.base_model, model_path=sampler.path
        )
        return answer(response)

    async def weights_info(self, request: Request) -> Response:
        path = CheckpointPath.parse((await read_message(request, WeightsInfoRequest)).tinker_path)
        checkpoint = await asyncio.to_thread(self._store.get, path)
        lora = checkpoint.lora
        response = types.WeightsInfoResponse(
            base_model=checkpoint.base_model, is_lora=True, lora_rank=lora.rank,
            train_unembed=lora.train_unembed, train_mlp=lora.train_mlp,
            train_attn=lora.train_attn,
        )  # fmt: skip
        return answer(response)

    async def training_runs(self, request: Request) -> Response:
        runs = await self._runs()
        page, cursor = _page(request, runs)
        return answer(types.TrainingRunsResponse(training_runs=page, cursor=cursor))

    async def training_run(self, request: Request) -> Response:
        wanted = request.path_params["run"]
        for run in await self._runs(wanted):
            if run.training_run_id == wanted:
                return answer(run)
        raise StoreError(f"there is no training run {wanted!r} here")

    async def all_checkpoints(self, request: Request) -> Response:
        found = await asyncio.to_thread(self._store.list)
        page, cursor = _page(request, [_checkpoint(checkpoint) for checkpoint in found])
        return answer(types.CheckpointsListResponse(checkpoints=page, cursor=cursor))

    async def checkpoints(self, request: Request) -> Response:
        found = await asyncio.to_thread(self._store.list, request.path_params["run"])
        listed = [_checkpoint(checkpoint) for checkpoint in found]
        return answer(types.CheckpointsListResponse(checkpoints=listed))

    async def delete(self, request: Request) -> Response:
        await asyncio.to_thread(self._store.delete, CheckpointPath(**request.path_params))
        return JSONResponse({})

    async def set_ttl(self, request: Request) -> Response:
        ttl = (await read_message(request, TtlRequest)).ttl_seconds
        await asyncio.to_thread(self._store.set_ttl, CheckpointPath(**request.path_params), ttl)
        return JSONResponse({})

    async def publish(self, request: Request) -> Response:
        path, public = CheckpointPath(**request.path_params), request.method == "POST"
        await asyncio.to_thread(self._store.publish, path, public)
        return JSONResponse({})

    async def _runs(self, only: str | None = None) -> list[types.TrainingRun]:
        """Those alive and those that left checkpoints, the last used first."""
        found: dict[str, dict] = {}
        for checkpoint in await asyncio.to_thread(self._store.list, only):
            run = found.setdefault(checkpoint.run, _run_of(checkpoint))
            if checkpoint.kind in _LAST:
                run.setdefault(_LAST[checkpoint.kind], _checkpoint(checkpoint))
        for model in self._core.sessions.models():
            if model.is_created and model.lora is not None:
                found.setdefault(model.model_id, {}).update(
                    base_model=model.base_model, lora_rank=model.lora.rank,
                    last_request_time=_time(model.last_request),
                    user_metadata=model.user_metadata, corrupted=model.broken is not None,
                )  # fmt: skip
        runs = [
            types.TrainingRun(training_run_id=run, model_owner=OWNER, is_lora=True, **values)
            for run, values in found.items()
        ]
        return sorted(runs, key=lambda run: run.last_request_time, reverse=True)


def _run_of(checkpoint: Checkpoint) -> dict:
    return {
        "base_model": checkpoint.base_model,
        "lora_rank": checkpoint.lora.rank,
        "last_request_time": _time(checkpoint.created),
        "user_metadata": checkpoint.run_metadata,
    }


def _checkpoint(checkpoint: Checkpoint) -> types.Checkpoint:
    return types.Checkpoint(
        checkpoint_id=f"{checkpoint.kind}/{checkpoint.name}",
        checkpoint_type=_TYPES[checkpoint.kind],
        time=_time(checkpoint.created),
        tinker_path=str(checkpoint.path),
        size_bytes=checkpoint.size,
        public=checkpoint.public,
        user_metadata=checkpoint.user_metadata,
        expires_at=None if checkpoint.expires is None else _time(checkpoint.expires),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _page(request: Request, found: list) -> tuple[list, types.Cursor]:
    try:
        limit = int(request.query_params.get("limit", 100))
        offset = int(request.query_params.get("offset", 0))
    except ValueError as error:
        raise BadRequest("limit and offset must be whole numbers") from error
    if limit < 0 or offset < 0:
        raise BadRequest("limit and offset must not be negative")
    cursor = types.Cursor(offset=offset, limit=limit, total_count=len(found))
    return found[offset : offset + limit], cursor
