"""Answers in the form that today's SDK reads."""

from __future__ import annotations

import json
from typing import Any

from sft.service.habits import messages
from sft.service.habits.record import Habits
from sft.service.habits.upstream import Answer

MOST_ASKED = 10_000
"""Sampling requests whose prompts' lengths are remembered, until their answers come."""


class Answers:
    """What is added to one server's answers."""

    def __init__(self, habits: Habits):
        self._habits = habits
        self._lengths: dict[str, int] = {}

    def capabilities(self, answer: Answer) -> Answer:
        """Models are called `model_name`."""
        value = answer.value
        models = value.get("supported_models") if isinstance(value, dict) else None
        changed = False
        for model in models if isinstance(models, list) else ():
            if isinstance(model, dict) and not model.get("model_name") and model.get("model_id"):
                model["model_name"] = model["model_id"]
                changed = True
        if not changed:
            return answer
        self._habits.say("names of models", "read from model_id, where the SDK has model_name")
        return Answer.of(value, answer.status)

    def client_config(self, answer: Answer) -> Answer:
        """Flags for what only the hosted service has are off: results are asked for one by one, the
        key is the proxy's own, nothing is packed on the way through this machine, and the parts of
        a large batch come in their order (in parallel, the SDK holds the first one back until the
        others were answered)."""
        off = (
            "pjwt_auth_enabled", "sample_use_retrieve_futures", "proto_compress_fwdbwd",
            "parallel_fwdbwd_chunks",
        )  # fmt: skip
        said = answer.value if isinstance(answer.value, dict) else {}
        value = {**said, **dict.fromkeys(off, False)}
        if self._habits.measured_on_copies:
            value["sample_join_sampling_session"] = False
        return Answer.of(value)

    def sample_promise(self, message: dict[str, Any], answer: Answer) -> Answer:
        """A sampling promise names its sequences."""
        value = answer.value
        if answer.status >= 400 or not isinstance(value, dict) or "request_id" not in value:
            return answer
        request_id = str(value["request_id"])
        if message.get("prompt_logprobs"):
            chunks = message["prompt"]["chunks"]
            self._lengths[request_id] = sum(len(chunk.get("tokens", ())) for chunk in chunks)
            while len(self._lengths) > MOST_ASKED:
                self._lengths.pop(next(iter(self._lengths)))
        if value.get("sample_sequence_ids"):
            return answer
        self._habits.say("ids of sampled sequences", "made up, for the server gives none")
        return Answer.of(promised(request_id, message), answer.status)

    def result(self, request_id: str, answer: Answer) -> Answer:
        """Log-probabilities begin with that of the first token, and a sampler's weights have
        `sampler_weights` in their path."""
        length = self._lengths.get(request_id)
        if answer.status == 200 and answer.is_protobuf and length is not None:
            padded = messages.with_first_logprob(answer.content, length)
            if padded is not None:
                self._habits.say(
                    "log-probabilities of a prompt", "the first token's is added, which is none"
                )
                answer = Answer(200, padded, answer.headers)
        elif answer.status == 200 and b"sampler" in answer.content and not answer.is_protobuf:
            answer = self._named(answer)
        if answer.status != 408:
            self._lengths.pop(request_id, None)
        return answer

    def _named(self, answer: Answer) -> Answer:
        value = answer.value
        if not isinstance(value, dict) or value.get("type") != "save_weights_for_sampler":
            return answer
        run, _, name = str(value.get("path") or "").removeprefix("tinker://").partition("/")
        if not name or "/" in name:
            return answer
        self._habits.say("paths of sampler weights", "written as tinker://RUN/sampler_weights/NAME")
        value["path"] = f"tinker://{run}/sampler_weights/{name}"
        return Answer(200, json.dumps(value).encode(), answer.headers)


def promised(request_id: str, message: dict[str, Any]) -> dict[str, Any]:
    """A sampling promise."""
    ids = [f"{request_id}-{index}" for index in range(message.get("num_samples", 1))]
    return {"request_id": request_id, "sample_sequence_ids": ids}
