"""asample: a prompt, what is to be sampled after it, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tinker import types
from tinker.proto import tinker_public_pb2 as pb
from tinker.types._pydantic_types import tensor_data

from sft.local.engine_api import SampledTokens, SampleResult, SampleWork
from sft.local.server.futures import Reply
from sft.local.server.wire.tensors import PROTOBUF, BadRequest

_MASKED_LOGPROB = -99999.0  # tinker.types.topk_logprobs: an empty cell


def sample_work(
    request: types.SampleRequest, sampler_id: str, max_context_length: int
) -> SampleWork:
    if request.prompt_alt_tokens_k:
        raise BadRequest("the local service does not serve prompt_alt_tokens_k")
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
        "topk_sample_logprobs": 0 <= request.topk_sample_logprobs <= 100,
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
        topk_sample_logprobs=request.topk_sample_logprobs,
        target_prompt_logprobs=_targets(request, len(prompt) - 1),
    )


def _targets(request: types.SampleRequest, places: int) -> np.ndarray | None:
    """The ids whose logprobs are asked for: int64 [places, K], -1 for none."""
    asked = request.target_prompt_logprobs
    if asked is None:
        return None
    try:
        targets = types.TensorData(**asked.model_dump()).to_numpy(pad_value=-1)
    except (ValueError, RuntimeError) as error:
        raise BadRequest(f"target_prompt_logprobs is not a whole tensor: {error}") from error
    if targets.ndim != 2 or len(targets) != places or targets.dtype != np.int64:
        raise BadRequest(
            f"target_prompt_logprobs has the shape {list(targets.shape)}: expected int64 values, "
            f"[{places}, K] (a row for each prompt token but the first)"
        )
    if targets.size and targets.min() < -1:
        raise BadRequest(f"target_prompt_logprobs holds {targets.min()}: expected a token id or -1")
    return targets


def _stops(stop: str | Sequence[str] | Sequence[int] | None) -> tuple[list[str], list[list[int]]]:
    entries: list[str | int] = [stop] if isinstance(stop, str) else [*(stop or [])]
    strings = [entry for entry in entries if isinstance(entry, str)]
    if "" in strings:
        raise BadRequest("a stop string is empty")
    return strings, [[entry] for entry in entries if not isinstance(entry, str)]


def sample_reply(result: SampleResult, asked: types.SampleRequest) -> Reply:
    """A SampleResponse; of the prompt's logprobs only the last are told if `asked` says so."""
    last_n = asked.prompt_logprobs_last_n
    message = pb.SampleResponse(sequences=[_sampled(sequence) for sequence in result.sequences])
    if result.prompt_logprobs is not None:
        values = np.array(result.prompt_logprobs, np.float32)  # None becomes NaN
        values[: len(values) - (last_n or len(values))] = np.nan
        message.prompt_logprobs = values.tobytes()
    if result.topk_prompt_logprobs is not None:
        rows = result.topk_prompt_logprobs
        untold = len(rows) - (last_n or len(rows))
        told = [None if index < untold else row for index, row in enumerate(rows)]
        message.topk_prompt_logprobs.CopyFrom(_topk(told))
    if result.target_prompt_logprobs is not None and asked.target_prompt_logprobs is not None:
        tensor = _like(asked.target_prompt_logprobs, result.target_prompt_logprobs)
        message.target_prompt_logprobs.CopyFrom(tensor)
    return Reply(message.SerializeToString(), PROTOBUF)


def _sampled(sequence: SampledTokens) -> pb.SampledSequence:
    stopped = sequence.stop_reason == "stop"
    return pb.SampledSequence(
        stop_reason=pb.STOP_REASON_STOP if stopped else pb.STOP_REASON_LENGTH,
        tokens=np.array(sequence.tokens, np.int32).tobytes(),
        logprobs=np.array(sequence.logprobs, np.float32).tobytes(),
        topk_sampled_logprobs=None if sequence.topk is None else _topk(sequence.topk),
    )


def _topk(rows: Sequence[list[tuple[int, float]] | None]) -> pb.TopkLogprobs:
    width = max((len(row) for row in rows if row), default=1)
    ids = np.zeros((len(rows), width), np.int32)
    logprobs = np.full((len(rows), width), _MASKED_LOGPROB, np.float32)
    for index, row in enumerate(rows):
        if row:
            ids[index, : len(row)] = [token for token, _ in row]
            logprobs[index, : len(row)] = [logprob for _, logprob in row]
    return pb.TopkLogprobs(
        token_ids=ids.tobytes(), logprobs=logprobs.tobytes(), k=width, length=len(rows)
    )


def _like(asked: tensor_data.TensorData, found: np.ndarray) -> pb.Tensor:
    """`found` [n, K], dense or sparse as what was asked for."""
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=found.shape)
    if asked.sparse_crow_indices is None or asked.sparse_col_indices is None:
        tensor.dense = found.tobytes()
        return tensor
    ends, columns = (
        np.array(indices, np.int64)
        for indices in (asked.sparse_crow_indices, asked.sparse_col_indices)
    )
    rows = np.repeat(np.arange(len(found)), np.diff(ends))
    tensor.sparse_csr.values = found[rows, columns].tobytes()
    tensor.sparse_csr.crow_indices = ends.tobytes()
    tensor.sparse_csr.col_indices = columns.tobytes()
    return tensor
