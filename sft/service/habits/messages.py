"""The SDK's binary messages, as far as the proxy reads and writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where it is used: a quarter of what a command waits for at its start
    import numpy as np

MASKED = math.nan
"""What stands for a missing log-probability: that of a sequence's first token."""


def training_request(
    model_id: str,
    seq_id: int,
    tokens: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    forward_only: bool,
) -> bytes:
    """`forward` or `forward_backward` of one sequence: each token but the first is a target.

    `weights` are those of the targets, one fewer than `tokens`; without them, 1.
    """
    import numpy as np
    from tinker.proto import tinker_public_pb2 as pb

    def tensor(values: np.ndarray, kind: Any) -> Any:
        return pb.Tensor(dtype=kind, shape=[len(values)], dense=values.tobytes())

    text = pb.EncodedTextChunk(tokens=np.array(tokens[:-1], np.int32).tobytes())
    targets = np.array(tokens[1:], np.int64)
    loss_weights = np.ones(len(targets)) if weights is None else np.array(weights)
    datum = pb.Datum(
        model_input=[pb.Chunk(encoded_text=text)],
        loss_fn_inputs={
            "target_tokens": tensor(targets, pb.DTYPE_INT64),
            "weights": tensor(loss_weights.astype(np.float32), pb.DTYPE_FLOAT32),
        },
    )
    message = pb.ForwardBackwardRequest(
        model_id=model_id,
        seq_id=seq_id,
        data=[datum],
        loss_fn="cross_entropy",
        forward_only=forward_only,
    )
    return message.SerializeToString()


def logprobs_of(content: bytes) -> np.ndarray:
    """The log-probabilities of the targets of a request's one sequence."""
    from tinker.proto.response_conv import deserialize_forward_backward_output

    output = deserialize_forward_backward_output(content)
    return output.loss_fn_outputs[0]["logprobs"].to_numpy()


def readdressed(
    body: bytes, names: dict[str, str], shifts: dict[str, int]
) -> tuple[bytes, str, int]:
    """A training request with its model renamed and its number shifted; the model, and the number
    that the request had. Raises `DecodeError` if the body is no such message."""
    from tinker.proto import tinker_public_pb2 as pb

    message = pb.ForwardBackwardRequest()
    message.ParseFromString(body)
    model_id, seq_id = names.get(message.model_id, message.model_id), message.seq_id
    if model_id != message.model_id or model_id in shifts:
        message.model_id = model_id
        message.seq_id += shifts.get(model_id, 0)
        body = message.SerializeToString()
    return body, model_id, seq_id


def scored(logprobs: np.ndarray) -> bytes:
    """The answer to `compute_logprobs` with those of all tokens but the first; one token sampled,
    which nobody reads: the SDK asks for one."""
    import numpy as np
    from tinker.proto import tinker_public_pb2 as pb

    message = pb.SampleResponse(prompt_logprobs=_padded(logprobs))
    message.sequences.add(
        stop_reason=pb.STOP_REASON_LENGTH,
        tokens=np.zeros(1, np.int32).tobytes(),
        logprobs=np.zeros(1, np.float32).tobytes(),
    )
    return message.SerializeToString()


def with_first_logprob(content: bytes, prompt_length: int) -> bytes | None:
    """A sampling answer whose log-probabilities of the prompt lack that of the first token, with
    it; None if it lacks nothing."""
    import numpy as np
    from tinker.proto import tinker_public_pb2 as pb

    message = pb.SampleResponse()
    message.ParseFromString(content)
    found = np.frombuffer(message.prompt_logprobs, np.float32)
    if len(found) != prompt_length - 1 or not len(found):
        return None
    message.prompt_logprobs = _padded(found)
    return message.SerializeToString()


def _padded(logprobs: np.ndarray) -> bytes:
    import numpy as np

    return np.concatenate([[MASKED], logprobs]).astype(np.float32).tobytes()
