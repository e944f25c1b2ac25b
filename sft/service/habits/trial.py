"""A session of a few tokens on a server, through its proxy, in the SDK's messages.

The SDK itself would ask for minutes again where a probe wants to know within seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sft.service.habits import messages
from sft.service.habits.server import Running
from sft.service.habits.upstream import PROTOBUF, TOO_LATE, Answer, Refused

if TYPE_CHECKING:
    import numpy as np

TOKENS = (7, 11, 5, 13, 9, 12, 6, 10, 8, 14)
"""A text that every vocabulary has."""
LEARNING_RATE = 0.05
"""With Adam, one step at this rate moves log-probabilities by far more than rounding does."""
PATIENCE_SECONDS = 60.0


class Asking:
    """Requests to a proxy, each of which is over within `seconds`."""

    def __init__(self, running: Running, seconds: float = PATIENCE_SECONDS):
        import httpx

        self.running, self.seconds = running, seconds
        self.give_up = math.inf
        """When everything is to be over, by `time.monotonic`."""
        self._client = httpx.Client(
            base_url=running.address, headers={"X-API-Key": running.key}, trust_env=False
        )

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        import httpx

        seconds = min(self.seconds, self.give_up - time.monotonic())
        try:
            if seconds <= 0:
                raise httpx.ReadTimeout("")
            reply = self._client.request(
                method, path, content=body, headers=headers, timeout=seconds
            )
        except httpx.TimeoutException:
            return Answer.of({"detail": f"no answer within {max(seconds, 0):.3g} s"}, TOO_LATE)
        except httpx.HTTPError as error:
            return Answer.of({"detail": str(error)}, 503)
        return Answer(reply.status_code, reply.content, dict(reply.headers))

    def get(self, path: str) -> Answer:
        return self.ask("GET", f"/api/v1/{path}")

    def post(self, endpoint: str, message: dict[str, Any]) -> Answer:
        body = json.dumps(message).encode()
        return self.ask("POST", f"/api/v1/{endpoint}", body, {"content-type": "application/json"})

    def value(self, endpoint: str, message: dict[str, Any]) -> dict[str, Any]:
        """The JSON that is answered. Raises `Refused`."""
        answer = self.post(endpoint, message)
        if answer.status >= 400 or not isinstance(answer.value, dict):
            raise Refused(answer.status, answer.detail)
        return dict(answer.value)

    def done(self, endpoint: str, message: dict[str, Any]) -> dict[str, Any]:
        """The result that the answer promises. Raises `Refused`."""
        return self.result(self.post(endpoint, message))

    def result(self, answer: Answer) -> dict[str, Any]:
        """The result that `answer` promises: JSON, or `{"protobuf": BYTES}`. Raises `Refused`."""
        if answer.status >= 400:
            raise Refused(answer.status, answer.detail)
        body = json.dumps({"request_id": answer.value["request_id"]}).encode()
        headers = {"accept": f"{PROTOBUF}, application/json", "content-type": "application/json"}
        give_up = time.monotonic() + self.seconds
        while time.monotonic() < give_up:
            found = self.ask("POST", "/api/v1/retrieve_future", body, headers)
            if found.status == 408:
                continue
            if found.status >= 400:
                raise Refused(found.status, found.detail)
            if found.is_protobuf:
                return {"protobuf": found.content}
            value = found.value if isinstance(found.value, dict) else {}
            if value.get("error"):
                raise Refused(400, str(value["error"]))
            return value
        raise Refused(TOO_LATE, f"no result within {self.seconds:.3g} s")

    def close(self) -> None:
        self._client.close()


class Session:
    """One on the server, and the adapters that are made in it."""

    def __init__(self, asking: Asking, base_model: str):
        self.asking, self.base_model = asking, base_model
        self.numbers = itertools.count()
        made = asking.value(
            "create_session",
            {"tags": [], "user_metadata": {"sft": "probe"}, "sdk_version": "0.38.0"}
            | {"type": "create_session"},
        )
        self.session_id = str(made["session_id"])

    def adapter(self, rank: int, seed: int = 1, **lora: bool) -> Adapter:
        """A new one. Raises `Refused`."""
        shape = {"train_mlp": True, "train_attn": True, "train_unembed": True} | lora
        made = self.asking.done(
            "create_model",
            {
                "session_id": self.session_id,
                "model_seq_id": next(self.numbers),
                "base_model": self.base_model,
                "lora_config": {"rank": rank, "seed": seed} | shape,
                "optimizer_config": {"type": "adamw"},
                "type": "create_model",
            },
        )
        return Adapter(self, str(made["model_id"]), rank)

    def loaded(self, path: str, rank: int, *, optimizer: bool) -> Adapter:
        """A new adapter with the weights at `path`. Raises `Refused`."""
        number = next(self.numbers)
        self.asking.done(
            "load_weights",
            {"session_id": self.session_id, "model_seq_id": number, "path": path}
            | {"optimizer": optimizer, "type": "load_weights"},
        )
        return Adapter(self, f"{self.session_id}:train:{number}", rank)

    def end(self) -> Answer:
        reason = {"reason": {"type": "success"}, "detail": None}
        return self.asking.post(f"sessions/{self.session_id}/finish", reason)


class Adapter:
    """One that is trained on `TOKENS`."""

    def __init__(self, session: Session, model_id: str, rank: int):
        self.session, self.model_id, self.rank = session, model_id, rank
        self._numbers = itertools.count(1)

    @property
    def _addressed(self) -> dict[str, Any]:
        return {"model_id": self.model_id, "seq_id": next(self._numbers)}

    def logprobs(self) -> np.ndarray:
        """Of all tokens but the first, by `forward`."""
        return messages.logprobs_of(self._pass(forward_only=True, weight=1.0))

    def backward(self, weight: float = 1.0) -> np.ndarray:
        """The same by `forward_backward`, whose loss weights are all `weight`."""
        return messages.logprobs_of(self._pass(forward_only=False, weight=weight))

    def _pass(self, *, forward_only: bool, weight: float) -> bytes:
        sent = self._sent(forward_only=forward_only, weight=weight)
        result = self.session.asking.result(sent)
        if "protobuf" not in result:
            raise Refused(200, "the result of forward_backward is no protobuf message")
        return bytes(result["protobuf"])

    def _sent(self, *, forward_only: bool, weight: float) -> Answer:
        weights = [weight] * (len(TOKENS) - 1)
        number = next(self._numbers)
        body = messages.training_request(
            self.model_id, number, TOKENS, weights, forward_only=forward_only
        )
        headers = {"content-type": PROTOBUF}
        return self.session.asking.ask("POST", "/api/v1/forward_backward", body, headers)

    def step(self, **parameters: float) -> dict[str, Any]:
        """A step of `step_message`."""
        return self.session.asking.done("optim_step", self.step_message(**parameters))

    def train(self, steps: int = 1) -> None:
        """So many steps, all sent before the first answer is awaited."""
        asking, sent = self.session.asking, []
        for _ in range(steps):
            sent.append(self._sent(forward_only=False, weight=1.0))
            sent.append(asking.post("optim_step", self.step_message()))
        for answer in sent:
            asking.result(answer)

    def step_message(
        self, learning_rate: float = LEARNING_RATE, clip: float = 0.0, eps: float = 1e-8
    ) -> dict[str, Any]:
        """A further step, not sent."""
        parameters = {"learning_rate": learning_rate, "beta1": 0.9, "beta2": 0.95, "eps": eps}
        parameters |= {"weight_decay": 0.0, "grad_clip_norm": clip}
        return self._addressed | {"adam_params": parameters, "type": "optim_step"}

    def save(self, endpoint: str, name: str) -> str:
        """The path of saved weights."""
        return str(self.session.asking.done(endpoint, self._addressed | {"path": name})["path"])

    def snapshot(self) -> str:
        """A sampling session of the weights as they are."""
        message = {"sampling_session_seq_id": next(self.session.numbers), "kind": "snapshot"}
        done = self.session.asking.done("save_weights_for_sampler", self._addressed | message)
        return str(done["sampling_session_id"])

    def unload(self) -> None:
        self.session.asking.done("unload_model", {"model_id": self.model_id})


@contextlib.contextmanager
def session(asking: Asking, base_model: str) -> Iterator[Session]:
    """A session that ends with the block. Raises `Refused`."""
    opened = Session(asking, base_model)
    try:
        yield opened
    finally:
        opened.end()


def sample(asking: Asking, sampling_session_id: str, seq_id: int, **wanted: Any) -> Any:
    """The SDK's `SampleResponse` to a request for tokens behind `TOKENS`. Raises `Refused`."""
    from tinker.proto.response_conv import deserialize_sample_response

    parameters = {"max_tokens": 1} | wanted.pop("parameters", {})
    result = asking.done(
        "asample",
        {
            "sampling_session_id": sampling_session_id,
            "seq_id": seq_id,
            "num_samples": 1,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]},
            "sampling_params": parameters,
            "type": "sample",
        }
        | wanted,
    )
    if "protobuf" not in result:
        raise Refused(200, "the result of sampling is no protobuf message")
    return deserialize_sample_response(result["protobuf"])
