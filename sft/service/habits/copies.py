"""Evaluating a copy of the adapter, where sampling is not apart from training.

Some servers load what is to be sampled from into the adapter that is being trained, or sample with
weights that say something else than `forward` does. There a snapshot is a saved state, in the
snapshot's place of the queue. To be evaluated it is loaded into an adapter of its own, which is
never trained: log-probabilities come from `forward` on it, and answers from its own sampling.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sft.service.habits import messages
from sft.service.habits.models import Models
from sft.service.habits.upstream import PROTOBUF, Answer, Refused

MOST_COPIES = 2
"""At once: a copy takes the place of an adapter that could be trained."""
MOST_SNAPSHOTS = 8
"""Of a model that stay on the server: as many may be waiting to be evaluated, and twice that."""
PLAIN = {"max_tokens": 1}
"""The sampling parameters of a request that is made for the prompt's log-probabilities alone."""


@dataclass
class Sampler:
    """What a sampling client of the SDK samples from."""

    session_id: str
    state: str
    """Path of the weights."""


@dataclass
class Copy:
    """An adapter with a sampler's weights."""

    model_id: str
    session_id: str
    users: int = 0
    seq_id: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sampling_session_id: str | None = None
    """Its own, once answers were asked for."""


class Copies:
    """Those on one server."""

    def __init__(self, models: Models):
        self._models = models
        self._numbers = itertools.count(1_000_000)  # far above the SDK's own in a session
        self.samplers: dict[str, Sampler] = {}
        self._copies: dict[str, Copy] = {}
        self._free = asyncio.Condition()
        self._snapshots: dict[str, list[str]] = {}

    def open(self, session_id: str, state: str) -> str:
        """A sampler of the weights at `state`; its name."""
        name = f"sft-copy-{next(self._numbers)}"
        self.samplers[name] = Sampler(session_id, state)
        return name

    async def snapshot(self, message: dict[str, Any]) -> Answer:
        """The promise of a saved state, in the place of one of weights to sample from."""
        saved = {k: message[k] for k in ("model_id", "seq_id") if k in message}
        name = f"sft-snapshot-{message['seq_id']}"
        return await self._models.ask("save_weights", saved | {"path": name})

    async def taken(self, model_id: str, session_id: str, saved: Answer) -> dict[str, Any]:
        """The result of a snapshot: a sampling session of the proxy. Raises `Refused`."""
        state = str((await self._models.upstream.result(saved))["path"])
        kept = self._snapshots.setdefault(model_id, [])
        kept.append(state)
        while len(kept) > MOST_SNAPSHOTS:
            await self._delete(kept.pop(0))
        return {"type": "save_weights_for_sampler", "sampling_session_id": self.open(
            session_id, state
        )}  # fmt: skip

    async def answer(self, name: str, message: dict[str, Any]) -> Any:
        """What a sampling request to the sampler `name` gives. Raises `Refused`."""
        copy = await self._acquire(name)
        try:
            tokens = [t for chunk in message["prompt"]["chunks"] for t in chunk.get("tokens", ())]
            if _for_the_prompt_alone(message) and len(tokens) > 1:
                return messages.scored(await self._forward(copy, tokens))
            return await self._sampled(copy, message)
        finally:
            async with self._free:
                copy.users -= 1
                self._free.notify_all()

    async def end_session(self, session_id: str) -> None:
        """Unload the session's copies, and delete its snapshots where the server can."""
        ended = [name for name, one in self.samplers.items() if one.session_id == session_id]
        for name in ended:
            self.samplers.pop(name)
        copies = [self._copies.pop(name, None) for name in ended]
        models = self._models.of_session.get(session_id, ())
        states = [state for model_id in models for state in self._snapshots.pop(model_id, ())]
        unloaded = [self._models.unload(copy.model_id) for copy in copies if copy is not None]
        await asyncio.gather(*unloaded, *[self._delete(state) for state in states])

    async def _acquire(self, name: str) -> Copy:
        """The copy of a sampler's weights, for one user more."""
        while True:
            async with self._free:
                if (copy := self._copies.get(name)) is not None and copy.model_id:
                    copy.users += 1
                    self._copies[name] = self._copies.pop(name)  # the last used is the last
                    return copy
                idle = None
                if copy is None and len(self._copies) >= MOST_COPIES:
                    idle = next((n for n, c in self._copies.items() if not c.users), None)
                if copy is not None or (idle is None and len(self._copies) >= MOST_COPIES):
                    await self._free.wait()
                    continue
                old = self._copies.pop(idle) if idle is not None else None
                copy = self._copies[name] = Copy("", self.samplers[name].session_id, users=1)
            await self._fill(name, copy, old)
            return copy

    async def _fill(self, name: str, copy: Copy, old: Copy | None) -> None:
        sampler = self.samplers[name]
        try:
            if old is not None:
                await self._models.unload(old.model_id)
            copy.model_id = await self._models.copy(
                sampler.session_id, next(self._numbers), sampler.state
            )
            copy.seq_id = self._models.shifts.get(copy.model_id, 0)
        except BaseException:
            self._copies.pop(name, None)
            raise
        finally:
            async with self._free:
                self._free.notify_all()

    async def _forward(self, copy: Copy, tokens: list[int]) -> Any:
        """The log-probabilities of all tokens but the first, by the copy."""
        async with copy.lock:
            copy.seq_id += 1
            body = messages.training_request(copy.model_id, copy.seq_id, tokens, forward_only=True)
            promise = await self._models.upstream.ask(
                "POST", "/api/v1/forward_backward", body, {"content-type": PROTOBUF}
            )
        result = await self._models.upstream.result(promise)
        return messages.logprobs_of(result["protobuf"])

    async def _sampled(self, copy: Copy, message: dict[str, Any]) -> Any:
        async with copy.lock:
            if copy.sampling_session_id is None:
                copy.seq_id += 1
                made = await self._models.done(
                    "save_weights_for_sampler",
                    {
                        "model_id": copy.model_id,
                        "seq_id": copy.seq_id,
                        "sampling_session_seq_id": next(self._numbers),
                    },
                )
                copy.sampling_session_id = str(made["sampling_session_id"])
        asked = message | {
            "sampling_session_id": copy.sampling_session_id,
            "seq_id": next(self._numbers),
        }
        result = await self._models.done("asample", asked)
        return result.get("protobuf", result)

    async def _delete(self, state: str) -> None:
        run, _, name = state.removeprefix("tinker://").partition("/")
        with suppress(Refused):
            await self._models.upstream.ask(
                "DELETE", f"/api/v1/training_runs/{run}/checkpoints/{name}"
            )


def _for_the_prompt_alone(message: dict[str, Any]) -> bool:
    """Whether a request is `compute_logprobs`, as far as can be told: one token, nothing else."""
    asked = {k: v for k, v in message["sampling_params"].items() if v not in (None, [], -1, 1.0)}
    extras = ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k")
    return (
        bool(message.get("prompt_logprobs"))
        and message.get("num_samples", 1) == 1
        and (asked == PLAIN or message["sampling_params"].get("max_tokens") == 1)
        and set(asked) <= {"max_tokens"}
        and not any(message.get(name) for name in (*extras, "target_prompt_logprobs"))
    )
