"""The proxy's requests: which are handed on as they are, and what is made of the others."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sft.service.habits import messages
from sft.service.habits.answers import Answers, promised
from sft.service.habits.copies import Copies
from sft.service.habits.missing import stand_in
from sft.service.habits.models import CANNOT_CREATE, Models, with_note
from sft.service.habits.promises import PREFIX, Promises
from sft.service.habits.record import Habits
from sft.service.habits.strict import StrictKeys
from sft.service.habits.turns import Turns
from sft.service.habits.upstream import POLL_SECONDS, Answer, Upstream

Message = dict[str, Any]
PASSED_ON = ("content-type", "content-encoding", "accept", "user-agent")
API = "/api/v1/"
UNLOAD_SECONDS = 5.0
"""For a server to say that it has unloaded what a session has left."""
QUEUED = ("optim_step", "save_weights", "save_weights_for_sampler", "save_weights_external")
"""Requests of a model that have a number, beside `forward_backward`."""


class Proxy:
    """The ASGI application before one server; its own key is `key`."""

    def __init__(self, habits: Habits, upstream: Upstream, key: str):
        self.habits, self.upstream, self._key = habits, upstream, key
        self.models = Models(upstream, StrictKeys(habits), habits)
        self.copies = Copies(self.models)
        self.promises, self.turns, self.answers = Promises(), Turns(), Answers(habits)
        self._lost: set[tuple[str, int, str]] = set()
        """Requests of models that may have been done without an answer that says so."""
        self._posts: dict[str, Callable[[Message], Awaitable[Answer]]] = {
            "create_model": self._create_model,
            "load_weights": self._load_weights,
            "create_sampling_session": self._create_sampling_session,
            "asample": self._sample,
            "weights_info": self._weights_info,
            **{endpoint: self._queued(endpoint) for endpoint in QUEUED},
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        given = request.headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            answer = Answer.of({"detail": "this proxy is another process's"}, 401)
        else:
            try:
                answer = await self._answer(request)
            except ClientDisconnect:
                return
        headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
        await Response(answer.content, answer.status, headers)(scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        method, path, body = request.method, request.url.path, await request.body()
        headers = {k: v for k, v in request.headers.items() if k in PASSED_ON}
        endpoint = path.removeprefix(API)
        if endpoint == "forward_backward":
            return await self._forward_backward(body, headers)
        if endpoint == "retrieve_future":
            return await self._retrieve(body, headers)
        if method == "POST" and endpoint in self._posts:
            return await self._posts[endpoint](_named(json.loads(body), self.models.aliases))
        if endpoint.endswith("/finish"):
            await self._end_session(endpoint.split("/")[1])
        if found := re.fullmatch(r"samplers/(.+)", endpoint):
            if (sampler := self.copies.samplers.get(found[1])) is not None:
                base_model, _ = await self.models.shape_of(sampler.state)
                return Answer.of({"sampler_id": found[1], "base_model": base_model})
        for alias, name in self.models.aliases.items():
            path = path.replace(f"/{alias}/", f"/{name}/")
            body = body.replace(f'"{alias}"'.encode(), f'"{name}"'.encode())
        target = f"{path}?{request.url.query}" if request.url.query else path
        answer = await self.upstream.ask(method, target, body, headers)
        answer = stand_in(self.habits, method, path, answer)
        if endpoint == "get_server_capabilities":
            return self.answers.capabilities(answer)
        if endpoint == "client/config" and answer.status == 200:
            return self.answers.client_config(answer)
        return answer

    async def _retrieve(self, body: bytes, headers: dict[str, str]) -> Answer:
        request_id = str(json.loads(body).get("request_id", ""))
        if request_id.startswith(PREFIX):
            answer = await self.promises.fetch(request_id, POLL_SECONDS)
        else:
            path = f"{API}retrieve_future"
            answer = await self.upstream.ask("POST", path, body, headers, POLL_SECONDS)
        if answer.status == 409:  # the SDK would not ask again, and see nothing in it
            answer = Answer.of({"error": answer.detail, "category": "server"})
        return self.answers.result(request_id, answer)

    async def _forward_backward(self, body: bytes, headers: dict[str, str]) -> Answer:
        from google.protobuf.message import DecodeError

        try:
            body, model_id, seq_id = messages.readdressed(
                body, self.models.aliases, self.models.shifts
            )
        except DecodeError:
            return await self.upstream.ask("POST", f"{API}forward_backward", body, headers)
        return await self._in_turn(
            model_id,
            seq_id,
            "forward_backward",
            lambda: self.upstream.ask("POST", f"{API}forward_backward", body, headers),
        )

    def _queued(self, endpoint: str) -> Callable[[Message], Awaitable[Answer]]:
        async def handle(message: Message) -> Answer:
            model_id, seq_id = str(message["model_id"]), message.get("seq_id")
            if endpoint == "save_weights_for_sampler" and self._is_snapshot(message):
                return await self._snapshot(model_id, int(seq_id or 0), message)
            if seq_id is None:
                return await self.models.ask(endpoint, message)
            shifted = message | {"seq_id": seq_id + self.models.shifts.get(model_id, 0)}
            return await self._in_turn(
                model_id, seq_id, endpoint, lambda: self.models.ask(endpoint, shifted)
            )

        return handle

    async def _in_turn(
        self, model_id: str, seq_id: int, endpoint: str, ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """The answer to a model's request. One that may have been done already is not asked again:
        the SDK is told that the model is gone (410), so that its run goes on from a checkpoint."""
        key = (model_id, seq_id, endpoint)
        if key in self._lost and self.habits.repeats_act_twice is not False:
            detail = f"no answer came to {endpoint} {seq_id}: asked again, it could be done twice"
            return Answer.of({"detail": detail}, 410)
        answer = await self.turns.take(model_id, seq_id, endpoint, ask)
        if answer.may_have_acted:
            self._lost.add(key)
        return answer

    def _is_snapshot(self, message: Message) -> bool:
        wanted = message.get("sampling_session_seq_id") is not None
        return wanted and self.habits.measured_on_copies

    async def _snapshot(self, model_id: str, seq_id: int, message: Message) -> Answer:
        shifted = message | {"seq_id": seq_id + self.models.shifts.get(model_id, 0)}
        answer = await self._in_turn(
            model_id, seq_id, "snapshot", lambda: self.copies.snapshot(shifted)
        )
        if answer.status >= 400:
            return answer
        session_id = next(
            (s for s, names in self.models.of_session.items() if model_id in names), ""
        )
        work = self.copies.taken(model_id, session_id, answer)
        return Answer.of({"request_id": self.promises.promise(work), "model_id": model_id})

    async def _create_model(self, message: Message) -> Answer:
        return await self._once(message, "create_model", self._created)

    async def _once(
        self, message: Message, endpoint: str, make: Callable[[Message], Awaitable[Answer]]
    ) -> Answer:
        """A repeated request for a model makes no second one."""
        name = f"{message.get('session_id')}:train:{message.get('model_seq_id')}"
        return await self.turns.take(name, 0, endpoint, lambda: make(message))

    async def _created(self, message: Message) -> Answer:
        lora = message.get("lora_config")
        message["user_metadata"] = with_note(message.get("user_metadata"), lora)
        answer = await self.models.ask("create_model", message)
        if answer.status >= 400:
            return answer

        async def created() -> Message:
            result = await self.upstream.result(answer)
            names = self.models.of_session.setdefault(str(message["session_id"]), set())
            names.add(str(result["model_id"]))
            return result

        return Answer.of({"request_id": self.promises.promise(created())})

    async def _load_weights(self, message: Message) -> Answer:
        """Handed on; a server that cannot make a model by it gets two requests."""
        if message.get("session_id"):
            return await self._once(message, "load_weights", self._loaded)
        return await self._queued("load_weights")(message)

    async def _loaded(self, message: Message) -> Answer:
        answer = await self.models.ask("load_weights", message)
        if answer.status < 400:
            names = self.models.of_session.setdefault(message["session_id"], set())
            names.add(f"{message['session_id']}:train:{message['model_seq_id']}")
        if answer.status not in CANNOT_CREATE:
            return answer
        known = await self.upstream.call(f"{API}weights_info", {"tinker_path": message["path"]})
        if known.status >= 400:  # it is the checkpoint that the server has refused
            return answer
        return Answer.of({"request_id": self.promises.promise(self.models.load(message))})

    async def _create_sampling_session(self, message: Message) -> Answer:
        path = str(message.get("model_path") or "")
        if path and self.habits.measured_on_copies:
            state = path.replace("/sampler_weights/", "/weights/")
            known = await self.upstream.call(f"{API}weights_info", {"tinker_path": state})
            if known.status == 200:
                name = self.copies.open(str(message["session_id"]), state)
                return Answer.of({"sampling_session_id": name})
        return await self.models.ask("create_sampling_session", message)

    async def _sample(self, message: Message) -> Answer:
        session = str(message.get("sampling_session_id") or "")
        if session in self.copies.samplers:
            name = self.promises.promise(self.copies.answer(session, message))
            answer = Answer.of(promised(name, message))
        else:
            answer = await self.models.ask("asample", message)
        return self.answers.sample_promise(message, answer)

    async def _weights_info(self, message: Message) -> Answer:
        """A server that does not tell is taken to have the checkpoint: loading it will show."""
        answer = await self.models.ask("weights_info", message)
        if not answer.is_missing:
            return answer
        path = str(message["tinker_path"])
        run, _, name = path.removeprefix("tinker://").partition("/")
        of_run = (await self.upstream.ask("GET", f"{API}training_runs/{run}")).value
        if not isinstance(of_run, dict) or not of_run.get("base_model"):
            return Answer.of({"detail": f"the server says nothing of {path}"}, 404)
        listed = await self.upstream.ask("GET", f"{API}training_runs/{run}/checkpoints")
        found = listed.value.get("checkpoints") if isinstance(listed.value, dict) else None
        if found is not None and path not in [one.get("tinker_path") for one in found]:
            return Answer.of({"detail": f"the server has no checkpoint {path}"}, 404)
        self.habits.say("what a checkpoint is", "told by its training run")
        told = {"base_model": of_run["base_model"], "is_lora": True}
        return Answer.of(told | {"lora_rank": of_run.get("lora_rank")})

    async def _end_session(self, session_id: str) -> None:
        """Unload what a session has left. A server that is busy does so once it has the time."""
        for model_id in self.models.of_session.get(session_id, ()):
            self.turns.forget(model_id)
            self._lost = {key for key in self._lost if key[0] != model_id}
        work = [
            asyncio.create_task(one.end_session(session_id)) for one in (self.copies, self.models)
        ]
        await asyncio.wait(work, timeout=UNLOAD_SECONDS)

    async def close(self) -> None:
        """End what sessions have left."""
        work = [self._end_session(session) for session in list(self.models.of_session)]
        await asyncio.gather(*work, return_exceptions=True)
        await self.upstream.close()


def _named(message: Message, aliases: dict[str, str]) -> Message:
    if (model_id := message.get("model_id")) in aliases:
        return message | {"model_id": aliases[model_id]}
    return message
