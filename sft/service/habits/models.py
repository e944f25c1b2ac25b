"""The adapters that are trained through the proxy: made, made from a checkpoint, unloaded.

The SDK makes a client from a checkpoint with one request, `load_weights` with a session in place of
a model. A server that has no such request gets two, `create_model` and `load_weights`; its name of
the model then stands for the one that the SDK has made up.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sft.service.habits.record import Habits
from sft.service.habits.strict import StrictKeys
from sft.service.habits.upstream import Answer, Refused, Upstream

LORA_NOTE = "sft_lora"
"""What of an adapter's shape servers do not say of its checkpoints is noted in its metadata."""
CANNOT_CREATE = (400, 404, 422)
"""How servers refuse a `load_weights` that names no model."""
SHAPE = ("train_mlp", "train_attn", "train_unembed")


@dataclass
class Models:
    """Those of one server."""

    upstream: Upstream
    strict: StrictKeys
    habits: Habits
    aliases: dict[str, str] = field(default_factory=dict)
    """The server's names of models, by the SDK's."""
    of_session: dict[str, set[str]] = field(default_factory=dict)
    """Adapters on the server, by session."""
    shifts: dict[str, int] = field(default_factory=dict)
    """By how much a model's request numbers are higher than the SDK's: loading it was one."""
    needs_two_requests: bool = False
    """The server makes no model by `load_weights` alone."""

    def name(self, model_id: str) -> str:
        """The server's name of a model."""
        return self.aliases.get(model_id, model_id)

    async def ask(self, endpoint: str, message: dict[str, Any]) -> Answer:
        """POST a message to `/api/v1/ENDPOINT`, without keys that the server does not know."""
        while True:
            known = self.strict.without_unknown(endpoint, message)
            if isinstance(known, Answer):
                return known
            answer = await self.upstream.call(f"/api/v1/{endpoint}", known)
            if not self.strict.learn(endpoint, answer):
                return answer

    async def done(self, endpoint: str, message: dict[str, Any]) -> dict[str, Any]:
        """`ask`, and the result that the answer promises. Raises `Refused`."""
        return await self.upstream.result(await self.ask(endpoint, message))

    async def create(
        self, session_id: str, model_seq_id: int, base_model: str, lora: dict[str, Any]
    ) -> str:
        """Make an adapter; the server's name of it. Raises `Refused`."""
        result = await self.done(
            "create_model",
            {
                "session_id": session_id,
                "model_seq_id": model_seq_id,
                "base_model": base_model,
                "lora_config": lora,
                "user_metadata": with_note(None, lora),
                "type": "create_model",
            },
        )
        model_id = str(result["model_id"])
        self.of_session.setdefault(session_id, set()).add(model_id)
        return model_id

    async def by_two_requests(
        self, session_id: str, model_seq_id: int, path: str, *, optimizer: bool
    ) -> str:
        """A new adapter with the weights at `path`. Raises `Refused`."""
        base_model, lora = await self.shape_of(path)
        model_id = await self.create(session_id, model_seq_id, base_model, lora)
        message = {"model_id": model_id, "seq_id": 1, "path": path, "optimizer": optimizer}
        try:
            await self.done("load_weights", message | {"type": "load_weights"})
        except Refused:
            await self.unload(model_id)
            raise
        self.shifts[model_id] = 1
        self.needs_two_requests = True
        self.habits.say(
            "a model from a checkpoint", "made by two requests, create_model and load_weights"
        )
        return model_id

    async def copy(self, session_id: str, model_seq_id: int, path: str) -> str:
        """A new adapter with the weights at `path`, in the way that the server has. Raises
        `Refused`."""
        if not self.needs_two_requests:
            message = {"session_id": session_id, "model_seq_id": model_seq_id, "path": path}
            answer = await self.ask(
                "load_weights", message | {"optimizer": False, "type": "load_weights"}
            )
            if answer.status not in CANNOT_CREATE:
                await self.upstream.result(answer)
                return f"{session_id}:train:{model_seq_id}"
        return await self.by_two_requests(session_id, model_seq_id, path, optimizer=False)

    async def load(self, message: dict[str, Any]) -> dict[str, Any]:
        """What the SDK's create-by-load promises. Raises `Refused`."""
        key = (message["session_id"], message["model_seq_id"])
        alias = f"{key[0]}:train:{key[1]}"
        if alias not in self.aliases:
            wanted = message.get("optimizer_config") or {"type": "adamw"}
            if wanted != {"type": "adamw"}:
                raise Refused(400, f"{self.habits.url} loads no weights for {wanted}")
            self.aliases[alias] = await self.by_two_requests(
                *key, message["path"], optimizer=message["optimizer"]
            )
        return {"path": message["path"], "model_id": alias, "type": "load_weights"}

    async def shape_of(self, path: str) -> tuple[str, dict[str, Any]]:
        """Base model and LoRA settings of the checkpoint at `path`. Raises `Refused`."""
        answer = await self.upstream.call("/api/v1/weights_info", {"tinker_path": path})
        if answer.status >= 400:
            raise Refused(answer.status, f"{path}: {answer.detail}")
        info = answer.value
        lora = {"rank": info["lora_rank"]}
        run = path.removeprefix("tinker://").partition("/")[0]
        lora |= {name: info[name] for name in SHAPE if info.get(name) is not None}
        if not lora.keys() >= set(SHAPE):
            found = (await self.upstream.ask("GET", f"/api/v1/training_runs/{run}")).value
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                noted = json.loads(found["user_metadata"][LORA_NOTE])
                lora = {name: bool(noted[name]) for name in SHAPE if name in noted} | lora
        return info["base_model"], lora

    async def unload(self, model_id: str) -> None:
        """Free an adapter's place; a server that cannot frees it by itself, in time."""
        model_id = self.name(model_id)
        with suppress(Refused, KeyError, TypeError):
            await self.done("unload_model", {"model_id": model_id, "type": "unload_model"})
        for models in self.of_session.values():
            models.discard(model_id)

    async def end_session(self, session_id: str) -> None:
        """Unload what a session has made, if its checkpoints outlast that."""
        models = self.of_session.pop(session_id, set())
        if not self.habits.unloading_loses_checkpoints:
            await asyncio.gather(*[self.unload(model_id) for model_id in models])


def with_note(metadata: dict[str, Any] | None, lora: dict[str, Any] | None) -> dict[str, Any]:
    """The metadata of a model with a note of its adapter's shape."""
    shape = {name: (lora or {}).get(name, True) for name in SHAPE}
    return {**(metadata or {}), LORA_NOTE: json.dumps(shape)}
