"""A session of a few tokens on a server, through its proxy, in the SDK's messages.

The SDK itself would ask for minutes again where a probe wants to know within seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sft.service.habits import messages
from sft.service.habits.server import Running
from sft.service.habits.upstream import PROTOBUF, TOO_LATE, Answer, Refused

if TYPE_CHECKING:
    import numpy as np

USER_METADATA = {"sft": "probe"}
"""By which a server knows such a session from a run's."""
TOKENS = (7, 11, 5, 13, 9, 12, 6, 10, 8, 14)
"""A text that every vocabulary has."""
LONGER = tuple(5 + 7 * i % 31 for i in range(31))
"""A text to measure: more log-probabilities than those of `TOKENS`. With a token sampled behind it
not above 32, the shortest shape that servers compile for."""
LIFE_SECONDS = 3600
"""Of what is saved here, should it not be deleted before: the least that hosted Tinker takes."""
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
        self.saved: list[str] = []
        """Paths of what is there to be deleted."""
        made = asking.value(
            "create_session",
            {"tags": [], "user_metadata": USER_METADATA, "sdk_version": "0.38.0"}
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

    def delete(self, path: str) -> Answer:
        """Delete what was saved at `path`."""
        if path in self.saved:
            self.saved.remove(path)
        return self.asking.ask("DELETE", checkpoint_url(path))

    def end(self) -> Answer:
        """End it; nothing that was saved stays where the server can delete."""
        for path in list(self.saved):
            self.delete(path)
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

    def logprobs(self, tokens: Sequence[int] = TOKENS) -> np.ndarray:
        """Of all tokens but the first, by `forward`."""
        return self._logprobs(self._sent(self.forward_message(tokens)))

    def _logprobs(self, sent: Answer) -> np.ndarray:
        result = self.session.asking.result(sent)
        if "protobuf" not in result:
            raise Refused(200, "the result of forward_backward is no protobuf message")
        return messages.logprobs_of(bytes(result["protobuf"]))

    def _sent(self, body: bytes) -> Answer:
        headers = {"content-type": PROTOBUF}
        return self.session.asking.ask("POST", "/api/v1/forward_backward", body, headers)

    def forward_message(self, tokens: Sequence[int] = TOKENS) -> bytes:
        """A further `forward`, not sent."""
        number = next(self._numbers)
        return messages.training_request(self.model_id, number, tokens, forward_only=True)

    def backward_message(self, weight: float = 1.0) -> bytes:
        """A further `forward_backward` whose loss weights are all `weight`, not sent."""
        weights, number = [weight] * (len(TOKENS) - 1), next(self._numbers)
        return messages.training_request(self.model_id, number, TOKENS, weights, forward_only=False)

    def train(self, steps: int = 1) -> None:
        """So many steps, all sent before the first answer is awaited."""
        for answer in [sent for _ in range(steps) for sent in self._step()]:
            self.session.asking.result(answer)

    def _step(self, weight: float = 1.0, **parameters: float) -> list[Answer]:
        """The promises of a step of `step_message`."""
        return [
            self._sent(self.backward_message(weight)),
            self.session.asking.post("optim_step", self.step_message(**parameters)),
        ]

    def after_step(self, weight: float = 1.0, **parameters: float) -> np.ndarray:
        """`logprobs` after a step, all sent before the first answer is awaited."""
        sent = [*self._step(weight, **parameters), self._sent(self.forward_message())]
        for answer in sent[:-1]:
            self.session.asking.result(answer)
        return self._logprobs(sent[-1])

    def step_message(
        self, learning_rate: float = LEARNING_RATE, clip: float = 0.0, eps: float = 1e-8
    ) -> dict[str, Any]:
        """A further step, not sent."""
        parameters = {"learning_rate": learning_rate, "beta1": 0.9, "beta2": 0.95, "eps": eps}
        parameters |= {"weight_decay": 0.0, "grad_clip_norm": clip}
        return self._addressed | {"adam_params": parameters, "type": "optim_step"}

    def save(self, endpoint: str, name: str) -> str:
        """The path of saved weights."""
        message = {"path": name, "ttl_seconds": LIFE_SECONDS}
        path = str(self.session.asking.done(endpoint, self._addressed | message)["path"])
        self.session.saved.append(path)
        return path

    def checkpoints(self) -> list[dict[str, Any]]:
        """What the server lists of this adapter's; nothing if it lists none."""
        listed = self.session.asking.get(f"training_runs/{self.model_id}/checkpoints").value
        found = listed.get("checkpoints") if isinstance(listed, dict) else None
        return [one for one in found or () if one.get("tinker_path")]

    def snapshot(self) -> str:
        """A sampling session of the weights as they are."""
        message = {"sampling_session_seq_id": next(self.session.numbers), "kind": "snapshot"}
        done = self.session.asking.done("save_weights_for_sampler", self._addressed | message)
        return str(done["sampling_session_id"])

    def unload(self) -> None:
        self.session.asking.done("unload_model", {"model_id": self.model_id})


def checkpoint_url(path: str) -> str:
    """Of the checkpoint at `path` (tinker://RUN/KIND/NAME)."""
    run, _, name = path.removeprefix("tinker://").partition("/")
    return f"/api/v1/training_runs/{run}/checkpoints/{name}"


@contextlib.contextmanager
def session(asking: Asking, base_model: str) -> Iterator[Session]:
    """A session that ends with the block. Raises `Refused`."""
    opened = Session(asking, base_model)
    try:
        yield opened
    finally:
        opened.end()


def sample(
    asking: Asking,
    sampling_session_id: str,
    seq_id: int,
    prompt: Sequence[int] = TOKENS,
    **wanted: Any,
) -> Any:
    """The SDK's `SampleResponse` to a request for tokens behind `prompt`. Raises `Refused`."""
    from tinker.proto.response_conv import deserialize_sample_response

    parameters = {"max_tokens": 1} | wanted.pop("parameters", {})
    result = asking.done(
        "asample",
        {
            "sampling_session_id": sampling_session_id,
            "seq_id": seq_id,
            "num_samples": 1,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]},
            "sampling_params": parameters,
            "type": "sample",
        }
        | wanted,
    )
    if "protobuf" not in result:
        raise Refused(200, "the result of sampling is no protobuf message")
    return deserialize_sample_response(result["protobuf"])
