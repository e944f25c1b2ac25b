"""Prompts: one pass over those of several requests, and what comes of each.

These are its keys and values, its logprobs if they are asked for, and the first token of every
sample. Which prompts share a pass, `shared_passes` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sft.local.engine import attention, head, network, packs, varlen
from sft.local.engine.cache import Cache
from sft.local.engine.choosing import Sampler, likeliest
from sft.local.engine.lora import FrozenAdapter
from sft.local.engine.models import BaseModel
from sft.local.engine.packs import Pack
from sft.local.engine_api import SampleWork

Request = tuple[FrozenAdapter, SampleWork]


@dataclass(eq=False)
class Stream:
    """A sample that goes on: its cache, the adapter it goes through, and its newest token.

    Samples of one prompt begin with the same cache; each gets its own on a shelf (`shelves`).
    """

    sampler: Sampler
    cache: Cache
    adapter: FrozenAdapter
    token: int


@dataclass
class Prefill:
    """What one pass over a prompt gives: streams to go on with, and the logprobs asked for."""

    samplers: list[Sampler]
    streams: list[Stream]
    prompt_logprobs: list[float | None] | None
    topk: list[list[tuple[int, float]] | None] | None
    of_targets: np.ndarray | None


def prefill(
    base: BaseModel, requests: list[Request], decode: Callable[[list[int]], str]
) -> list[Prefill]:
    """Compute the prompts of `requests` in one pass; an answer for each."""
    prompts = [work.prompt for _, work in requests]
    lengths = [len(prompt) for prompt in prompts]
    bounds = packs.bounds(lengths)
    pack = Pack(
        torch.tensor([token for prompt in prompts for token in prompt], device=base.device),
        packs.positions(lengths).to(base.device),
        lengths,
        [adapter.run(*rows) for (adapter, _), rows in zip(requests, bounds, strict=True)],
    )
    caches = [Cache.empty(base, length) for length in lengths]
    sequences = varlen.sequences(base, pack)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for cache, (start, end) in zip(caches, bounds, strict=True):
            cache.put(layer, k[start:end], v[start:end])
        return attention.forward(q, k, v, sequences, base.attention_scale, keep=False)[0]

    normal = network.hidden_states(base, pack, attend)
    return [
        _begin(base, request, cache, normal[start:end], decode)
        for request, cache, (start, end) in zip(requests, caches, bounds, strict=True)
    ]


def _begin(
    base: BaseModel,
    request: Request,
    cache: Cache,
    normal: Tensor,
    decode: Callable[[list[int]], str],
) -> Prefill:
    """A request's prompt logprobs, and its samples with their first tokens.

    `normal` [T, hidden] are the prompt's last normalised hidden states.
    """
    adapter, work = request
    cache.length = len(normal)
    logprobs, topk = _prompt_logprobs(base, adapter, work, normal)
    of_targets = _target_logprobs(base, adapter, work, normal)
    # A token that ends a sample is never computed further, so one more fits than the context.
    limit = base.context - cache.length + 1
    limit = limit if work.max_tokens is None else min(limit, work.max_tokens)
    samplers, streams = [], []
    logits = head.logits_of(base, normal[-1:], [adapter.run(0, 1)])[0] if limit else None
    for index in range(work.num_samples):
        sampler = Sampler(work, limit, base.eos, decode, _generator(work.seed, index))
        samplers.append(sampler)
        if logits is None:
            continue
        token = sampler.take(logits)
        if not sampler.done:
            streams.append(Stream(sampler, cache, adapter, token))
    return Prefill(samplers, streams, logprobs, topk, of_targets)


def _prompt_logprobs(
    base: BaseModel, adapter: FrozenAdapter, work: SampleWork, normal: Tensor
) -> tuple[list[float | None] | None, list[list[tuple[int, float]] | None] | None]:
    """Of each prompt token given those before it; the first has none before it and is None."""
    count = len(work.prompt) - 1
    if not (work.prompt_logprobs or work.topk_prompt_logprobs):
        return None, None
    targets = torch.tensor(work.prompt[1:], device=base.device)[:, None]
    chosen: list[float | None] = [None]
    if work.prompt_logprobs and count:
        (found,) = head.logprobs(base, normal[:-1], [targets], [adapter.run(0, count)])
        chosen += found[:, 0].tolist()
    if not work.topk_prompt_logprobs:
        return chosen, None
    topk: list[list[tuple[int, float]] | None] = [None]
    for block in normal[:count].split(head.BLOCK[base.device.type]):
        logits = head.logits_of(base, block, [adapter.run(0, len(block))])
        topk += likeliest(torch.log_softmax(logits, dim=-1), work.topk_prompt_logprobs)
    return (chosen if work.prompt_logprobs else None), topk


def _target_logprobs(
    base: BaseModel, adapter: FrozenAdapter, work: SampleWork, normal: Tensor
) -> np.ndarray | None:
    """Of the ids that the request names at each place of the prompt after the first."""
    wanted = work.target_prompt_logprobs
    if wanted is None or not wanted.size:
        return None if wanted is None else wanted.astype(np.float32)
    targets = torch.from_numpy(np.maximum(wanted, 0)).to(base.device)
    (found,) = head.logprobs(base, normal[:-1], [targets], [adapter.run(0, len(targets))])
    return np.where(wanted < 0, np.float32(0), found.cpu().numpy())


def _generator(seed: int | None, index: int) -> torch.Generator:
    """Random numbers of sample `index` alone; seeds that follow each other have nothing shared."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    mixed = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
    return generator.manual_seed(mixed)
