"""forward, forward_backward and optim_step."""

from __future__ import annotations

import math

import numpy as np
from google.protobuf.message import DecodeError
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from sft.local.engine_api import AdamStep, TrainingSequence, WorkResult
from sft.local.losses import Loss, loss_of
from sft.local.server.futures import Reply
from sft.local.server.wire.tensors import PROTOBUF, BadRequest, array_of


def parse_training(body: bytes) -> pb.ForwardBackwardRequest:
    """A forward or forward_backward request, its data not yet checked. Raises `BadRequest`."""
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise BadRequest(f"the body is not a ForwardBackwardRequest message: {error}") from error
    return message


def training_data(
    message: pb.ForwardBackwardRequest, max_context_length: int
) -> tuple[Loss, list[TrainingSequence]]:
    """The loss of a request and its data.

    Raises `BadRequest` if there is no such loss, or its config or the data do not fit it.
    """
    try:
        loss = loss_of(message.loss_fn, _settings(message))
    except ValueError as error:
        raise BadRequest(str(error)) from error
    if not message.data:
        raise BadRequest("the request holds no data")
    return loss, [
        _training_sequence(datum, loss, message.loss_fn, f"datum {index}", max_context_length)
        for index, datum in enumerate(message.data)
    ]


def _settings(message: pb.ForwardBackwardRequest) -> dict[str, float | str]:
    """What `loss_fn_config` says; older SDKs write numbers alone, in a field of their own."""
    values: dict[str, float | str] = dict(message.loss_fn_config)
    for key, value in message.loss_fn_config_v2.items():
        values[key] = value.text if value.WhichOneof("value") == "text" else value.number
    return values


def _training_sequence(
    datum: pb.Datum, loss: Loss, name: str, where: str, longest: int
) -> TrainingSequence:
    tokens = np.concatenate(
        [_chunk_tokens(chunk, where) for chunk in datum.model_input] or [np.array([])]
    )
    inputs = _inputs(datum, loss, name, where)
    targets = inputs["target_tokens"]
    if not 0 < len(tokens) == len(targets):
        raise BadRequest(
            f"{where}: {len(tokens)} input tokens, {len(targets)} target tokens; expected equally "
            "many, and some"
        )
    for key, values in inputs.items():
        if values.shape != targets.shape or not values.size:
            raise BadRequest(
                f"{where}: {key} has the shape {list(values.shape)}: expected that of "
                f"target_tokens, {list(targets.shape)}, and no dimension of 0"
            )
        if not np.isfinite(values).all():
            raise BadRequest(f"{where}: {key} holds a value that is not a finite number")
    if loss.policy and targets.ndim > 1:
        raise BadRequest(
            f"{where}: target_tokens has the shape {list(targets.shape)}: {name} takes one target "
            "a token (cross_entropy takes several)"
        )
    if len(tokens) > longest:
        raise BadRequest(f"{where}: {len(tokens)} tokens; the model's context holds {longest}")
    if targets.dtype.kind != "i" or min(tokens.min(), targets.min()) < 0:
        raise BadRequest(f"{where}: token ids must be integers that are not negative")
    factors = inputs["advantages"] if loss.policy else inputs.get("weights", np.ones(targets.shape))
    sampled = inputs["logprobs"].astype(np.float32) if loss.policy else None
    return TrainingSequence(
        tokens.astype(np.int64), targets.astype(np.int64), factors.astype(np.float32), sampled
    )


def _inputs(datum: pb.Datum, loss: Loss, name: str, where: str) -> dict[str, np.ndarray]:
    """By name; all that the loss needs, and nothing that it does not take."""
    needed = {"target_tokens", "logprobs", "advantages"} if loss.policy else {"target_tokens"}
    taken = needed if loss.policy else {"target_tokens", "weights"}
    given = datum.loss_fn_inputs
    if missing := sorted(needed - set(given)):
        raise BadRequest(f"{where}: loss_fn_inputs lacks {', '.join(missing)}, needed by {name}")
    if unknown := sorted(set(given) - taken):
        raise BadRequest(
            f"{where}: loss_fn_inputs holds {', '.join(unknown)}: {name} takes "
            f"{', '.join(sorted(taken))}"
        )
    return {key: array_of(tensor, f"{where}: {key}") for key, tensor in given.items()}


def _chunk_tokens(chunk: pb.Chunk, where: str) -> np.ndarray:
    kind = chunk.WhichOneof("chunk")
    if kind != "encoded_text":
        raise BadRequest(f"{where}: the local service takes text tokens only, not {kind} chunks")
    if len(chunk.encoded_text.tokens) % 4:
        raise BadRequest(f"{where}: the tokens are not int32 values")
    return np.frombuffer(chunk.encoded_text.tokens, np.int32)


def training_reply(result: WorkResult) -> Reply:
    """A ForwardBackwardOutput: the logprobs of each datum, and the metric `loss:sum`.

    The logprobs of data that follow each other with equally many targets a token are one record.
    """
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    message.metrics["loss:sum"] = float(result.loss_sum)
    alike: list[np.ndarray] = []
    for array in result.logprobs:
        if alike and alike[-1].shape[1:] != array.shape[1:]:
            _add_record(message, alike)
            alike = []
        alike.append(np.ascontiguousarray(array, np.float32))
    _add_record(message, alike)
    return Reply(message.SerializeToString(), PROTOBUF)


def _add_record(message: pb.ForwardBackwardOutput, arrays: list[np.ndarray]) -> None:
    record = message.loss_fn_outputs.add()
    record.num_datums = len(arrays)
    field = record.fields["logprobs"]
    field.dtype = pb.DTYPE_FLOAT32
    field.trailing_shape.extend(arrays[0].shape[1:])
    field.data = b"".join(array.tobytes() for array in arrays)
    field.offsets = np.cumsum([0, *(array.nbytes for array in arrays)], dtype=np.int64).tobytes()


def adam_step(request: types.OptimStepRequest) -> AdamStep:
    params = request.optim_params
    if not isinstance(params, types.AdamParams):
        raise BadRequest(
            f"optim_step with {params.type!r} parameters: the local service has adamw only"
        )
    bounds = {
        "learning_rate": (0, math.inf), "beta1": (0, 1), "beta2": (0, 1), "eps": (0, math.inf),
        "weight_decay": (0, math.inf), "grad_clip_norm": (0, math.inf),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        value = getattr(params, name)
        if not low <= value < high:
            raise BadRequest(f"optim_step: {name} is {value}: expected {low} <= {name} < {high}")
    return AdamStep(request.model_id, **{name: getattr(params, name) for name in bounds})
