"""The SDK's messages to and from the engine's plain values.

Requests are decoded into what engine_api.py describes and checked on the way: the engine gets
nothing that is malformed. What is malformed raises `BadRequest` with a sentence. Results become the
protobuf messages and JSON that the SDK's proto/response_conv.py and types read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from sft.local.engine_api import (
    AdamStep,
    SampledTokens,
    SampleResult,
    SampleWork,
    TrainingSequence,
    WorkResult,
)
from sft.local.server.futures import Reply

PROTOBUF = "application/x-protobuf"
_DTYPES = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64, pb.DTYPE_INT32: np.int32}
_MASKED_LOGPROB = -99999.0  # tinker.types.topk_logprobs: an empty cell


class BadRequest(Exception):
    """A request that cannot be served as it is; the message says what was expected."""


def parse_training(body: bytes) -> pb.ForwardBackwardRequest:
    """A forward or forward_backward request, its data not yet checked. Raises `BadRequest`."""
    message = pb.ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise BadRequest(f"the body is not a ForwardBackwardRequest message: {error}") from error
    return message


def training_sequences(
    message: pb.ForwardBackwardRequest, max_context_length: int
) -> list[TrainingSequence]:
    """The data of a request.

    Raises `BadRequest` if the loss is not cross_entropy, or the data do not fit it.
    """
    if message.loss_fn != "cross_entropy":
        raise BadRequest(
            f"loss_fn is {message.loss_fn!r}: the local service computes cross_entropy only "
            "(a loss of your own works through forward_backward_custom, which needs no other)"
        )
    if not message.data:
        raise BadRequest("the request holds no data")
    return [
        _training_sequence(datum, f"datum {index}", max_context_length)
        for index, datum in enumerate(message.data)
    ]


def _training_sequence(datum: pb.Datum, where: str, longest: int) -> TrainingSequence:
    tokens = np.concatenate(
        [_chunk_tokens(chunk, where) for chunk in datum.model_input] or [np.array([])]
    )
    inputs = datum.loss_fn_inputs
    if unknown := sorted(set(inputs) - {"target_tokens", "weights"}):
        raise BadRequest(f"{where}: cross_entropy takes target_tokens and weights, not {unknown}")
    if "target_tokens" not in inputs:
        raise BadRequest(f"{where}: loss_fn_inputs lacks target_tokens")
    targets = _vector(inputs["target_tokens"], f"{where}: target_tokens")
    weights = np.ones(len(targets), np.float32)
    if "weights" in inputs:
        weights = _vector(inputs["weights"], f"{where}: weights").astype(np.float32)
    if not 0 < len(tokens) == len(targets) == len(weights):
        raise BadRequest(
            f"{where}: {len(tokens)} input tokens, {len(targets)} target tokens and "
            f"{len(weights)} weights; all three must be equally many, and some"
        )
    if len(tokens) > longest:
        raise BadRequest(f"{where}: {len(tokens)} tokens; the model's context holds {longest}")
    if targets.dtype.kind != "i" or min(tokens.min(), targets.min()) < 0:
        raise BadRequest(f"{where}: token ids must be integers that are not negative")
    if not np.isfinite(weights).all():
        raise BadRequest(f"{where}: a weight is not a finite number")
    return TrainingSequence(tokens.astype(np.int64), targets.astype(np.int64), weights)


def _chunk_tokens(chunk: pb.Chunk, where: str) -> np.ndarray:
    kind = chunk.WhichOneof("chunk")
    if kind != "encoded_text":
        raise BadRequest(f"{where}: the local service takes text tokens only, not {kind} chunks")
    if len(chunk.encoded_text.tokens) % 4:
        raise BadRequest(f"{where}: the tokens are not int32 values")
    return np.frombuffer(chunk.encoded_text.tokens, np.int32)


def _vector(tensor: pb.Tensor, what: str) -> np.ndarray:
    if tensor.HasField("sparse_csr") or len(tensor.shape) > 1:
        raise BadRequest(f"{what} has the shape {list(tensor.shape)}: expected one dimension")
    dtype = np.dtype(_DTYPES.get(tensor.dtype, np.void))
    if dtype.kind == "V" or len(tensor.dense) % dtype.itemsize:
        raise BadRequest(f"{what} is not a tensor of float32 or int64 values")
    values = np.frombuffer(tensor.dense, dtype)
    if tensor.shape and tensor.shape[0] != len(values):
        raise BadRequest(f"{what} says {tensor.shape[0]} values and holds {len(values)}")
    return values


def training_reply(result: WorkResult) -> Reply:
    """A ForwardBackwardOutput: the logprobs of each datum, and the metric `loss:sum`."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    message.metrics["loss:sum"] = float(result.loss_sum)
    record = message.loss_fn_outputs.add()
    record.num_datums = len(result.logprobs)
    field = record.fields["logprobs"]
    arrays = [np.ascontiguousarray(array, np.float32) for array in result.logprobs]
    field.dtype = pb.DTYPE_FLOAT32
    field.data = b"".join(array.tobytes() for array in arrays)
    field.offsets = np.cumsum([0, *(array.nbytes for array in arrays)], dtype=np.int64).tobytes()
    return Reply(message.SerializeToString(), PROTOBUF)


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


def sample_work(
    request: types.SampleRequest, sampler_id: str, max_context_length: int
) -> SampleWork:
    _refuse_unserved(request)
    params = request.sampling_params
    try:
        prompt = request.prompt.to_ints()
    except ValueError as error:
        raise BadRequest("the local service takes prompts of text tokens only") from error
    if not prompt or min(prompt) < 0:
        raise BadRequest("the prompt must hold at least one token, and no negative ids")
    room = max_context_length - len(prompt)
    if room < 0:
        raise BadRequest(
            f"the prompt has {len(prompt)} tokens; the model's context holds {max_context_length}"
        )
    checks = {
        "num_samples": 1 <= request.num_samples <= 1024,
        "max_tokens": params.max_tokens is None or params.max_tokens >= 0,
        "temperature": 0 <= params.temperature < math.inf,
        "top_k": params.top_k == -1 or params.top_k > 0,
        "top_p": 0 < params.top_p <= 1,
        "topk_prompt_logprobs": 0 <= request.topk_prompt_logprobs <= 100,
    }
    for name, is_right in checks.items():
        if not is_right:
            value = getattr(request, name, None) or getattr(params, name, None)
            raise BadRequest(f"{name} is {value}: out of range")
    strings, ids = _stops(params.stop)
    return SampleWork(
        sampler_id=sampler_id,
        prompt=prompt,
        num_samples=request.num_samples,
        max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        seed=params.seed,
        stop_strings=strings,
        stop_token_ids=ids,
        stop_at_eos=params.stop is None or bool(strings or ids),
        prompt_logprobs=bool(request.prompt_logprobs),
        topk_prompt_logprobs=request.topk_prompt_logprobs,
    )


def _refuse_unserved(request: types.SampleRequest) -> None:
    unserved = {
        "topk_sample_logprobs": request.topk_sample_logprobs > 0,
        "target_prompt_logprobs": request.target_prompt_logprobs is not None,
        "prompt_alt_tokens_k": request.prompt_alt_tokens_k > 0,
        "record_stability_info": bool(request.record_stability_info),
    }
    for name, is_asked in unserved.items():
        if is_asked:
            raise BadRequest(f"the local service does not serve {name}")


def _stops(stop: str | Sequence[str] | Sequence[int] | None) -> tuple[list[str], list[list[int]]]:
    entries: list[str | int] = [stop] if isinstance(stop, str) else [*(stop or [])]
    strings = [entry for entry in entries if isinstance(entry, str)]
    if "" in strings:
        raise BadRequest("a stop string is empty")
    return strings, [[entry] for entry in entries if not isinstance(entry, str)]


def sample_reply(result: SampleResult, last_n: int | None) -> Reply:
    """A SampleResponse; `last_n` keeps the prompt's logprobs of the last n tokens only."""
    message = pb.SampleResponse(sequences=[_sampled(sequence) for sequence in result.sequences])
    if result.prompt_logprobs is not None:
        values = np.array(result.prompt_logprobs, np.float32)  # None becomes NaN
        values[: len(values) - (last_n or len(values))] = np.nan
        message.prompt_logprobs = values.tobytes()
    if result.topk_prompt_logprobs is not None:
        rows = result.topk_prompt_logprobs
        width = max((len(row) for row in rows if row), default=1)
        ids = np.zeros((len(rows), width), np.int32)
        logprobs = np.full((len(rows), width), _MASKED_LOGPROB, np.float32)
        for index, row in enumerate(rows):
            if row and index >= len(rows) - (last_n or len(rows)):
                ids[index, : len(row)] = [token for token, _ in row]
                logprobs[index, : len(row)] = [logprob for _, logprob in row]
        message.topk_prompt_logprobs.token_ids = ids.tobytes()
        message.topk_prompt_logprobs.logprobs = logprobs.tobytes()
        message.topk_prompt_logprobs.k = width
        message.topk_prompt_logprobs.length = len(rows)
    return Reply(message.SerializeToString(), PROTOBUF)


def _sampled(sequence: SampledTokens) -> pb.SampledSequence:
    stopped = sequence.stop_reason == "stop"
    return pb.SampledSequence(
        stop_reason=pb.STOP_REASON_STOP if stopped else pb.STOP_REASON_LENGTH,
        tokens=np.array(sequence.tokens, np.int32).tobytes(),
        logprobs=np.array(sequence.logprobs, np.float32).tobytes(),
    )
