"""Sampling with a key-value cache: prompts by one prefill each, samples in joint steps.

A step computes one token for a block of samples, whichever requests and adapters they belong to.
The block's number of rows is fixed, or one of a few between which this machine's matrix products
are seen to give equal rows; it is filled up with copies where there are fewer samples. So a row's
numbers do not depend on how many others are in the block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sft.local import attention, head, network
from sft.local.choosing import Sampler
from sft.local.engine_api import EngineError, SampleResult, SampleWork
from sft.local.lora import FrozenAdapter, Run
from sft.local.models import BaseModel
from sft.local.packing import Pack
from sft.local.workers import Workers

SIZES = (4, 8, 16, 32)  # rows of a block, where they agree
FIXED = 8  # rows of every block, where they do not
ACTIVE = 64  # samples at a time; the others wait, so that their caches take no memory


class Cache:
    """Keys and values of one sequence: [layers, 2, kv_heads, capacity, head_dim]."""

    def __init__(self, base: BaseModel, capacity: int):
        shape = (len(base.layers), 2, base.kv_heads, capacity, base.head_dim)
        self._store = torch.empty(shape, dtype=base.dtype, device=base.device)
        self.length = 0

    def copy(self) -> Cache:
        twin = Cache.__new__(Cache)
        twin._store, twin.length = self._store.clone(), self.length
        return twin

    def reserve(self, more: int) -> None:
        """Make room for `more` positions behind `length`."""
        capacity = self._store.shape[3]
        if self.length + more > capacity:
            grown = max(self.length + more, 2 * capacity)
            store = self._store.new_empty((*self._store.shape[:3], grown, self._store.shape[4]))
            store[:, :, :, : self.length] = self._store[:, :, :, : self.length]
            self._store = store

    def put(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [T, kv_heads, D] at `length`; returns all so far, [kv_heads, length + T, D].

        `length` itself is moved on by the caller, once for all layers.
        """
        end = self.length + len(k)
        store = self._store[layer]
        store[0, :, self.length : end] = k.transpose(0, 1)
        store[1, :, self.length : end] = v.transpose(0, 1)
        return store[0, :, :end], store[1, :, :end]


@dataclass
class Stream:
    """A sample that goes on: its cache, the adapter it goes through, and its newest token."""

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


def prefill(
    base: BaseModel, adapter: FrozenAdapter, work: SampleWork, decode: Callable[[list[int]], str]
) -> Prefill:
    """Compute a prompt, its logprobs where asked for, and the first token of each sample."""
    length = len(work.prompt)
    cache = Cache(base, length)
    pack = Pack(
        torch.tensor(work.prompt, device=base.device),
        torch.arange(length, device=base.device),
        [length],
        [adapter.run(0, length)],
    )

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache.put(layer, k, v)
        whole = attention.Sequences([(0, length)])
        return attention.forward(q, k, v, whole, base.attention_scale, keep=False)[0]

    normal = network.hidden_states(base, pack, attend)
    cache.length = length
    logprobs, topk = _prompt_logprobs(base, adapter, work, normal)
    # A token that ends a sample is never computed further, so one more fits than the context.
    limit = base.context - length + 1
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
            own = cache if index == work.num_samples - 1 else cache.copy()
            streams.append(Stream(sampler, own, adapter, token))
    return Prefill(samplers, streams, logprobs, topk)


def step(base: BaseModel, streams: list[Stream], size: int) -> None:
    """One more token for at most `size` streams, in one pass over a block of so many rows."""
    rows = streams + [streams[-1]] * (size - len(streams))
    for stream in streams:
        stream.cache.reserve(1)
    pack = Pack(
        torch.tensor([stream.token for stream in rows], device=base.device),
        torch.tensor([stream.cache.length for stream in rows], device=base.device),
        [1] * size,
        _adapter_runs(base, streams, size),
    )

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.zeros_like(q)
        for row, stream in enumerate(streams):
            keys, values = stream.cache.put(layer, k[row : row + 1], v[row : row + 1])
            # Query heads that share a key head are its rows: one kernel call, nothing repeated.
            out[row] = functional.scaled_dot_product_attention(
                q[row].view(1, base.kv_heads, -1, base.head_dim), keys[None], values[None],
                scale=base.attention_scale,
            ).view(base.heads, base.head_dim)  # fmt: skip
        return out.flatten(1)

    normal = network.hidden_states(base, pack, attend)
    logits = head.logits_of(base, normal, pack.runs)
    for row, stream in enumerate(streams):
        stream.cache.length += 1
        stream.token = stream.sampler.take(logits[row])


def sample(
    base: BaseModel,
    requests: list[tuple[FrozenAdapter, SampleWork]],
    decode: Callable[[list[int]], str],
    workers: Workers,
) -> list[SampleResult | EngineError]:
    """Answer checked requests on one base model, with as many samples in a step as there are."""

    def start(request: tuple[FrozenAdapter, SampleWork]) -> Prefill | EngineError:
        try:
            return prefill(base, *request, decode)
        except RuntimeError as error:  # out of memory, for one
            return EngineError(f"The sampling failed: {error}", user=False)

    sizes = block_sizes(base)
    prefills: list[Prefill | EngineError] = []
    active: list[Stream] = []

    def advance(room: int) -> None:
        while len(active) > room:
            active.sort(key=lambda stream: stream.adapter.key)
            each = -(-len(active) // workers.count)
            size = next((size for size in sizes if size >= each), sizes[-1])
            blocks = [active[i : i + size] for i in range(0, len(active), size)]
            for _ in workers.map(lambda block: step(base, block, size), blocks):  # noqa: B023
                pass
            active[:] = [stream for stream in active if not stream.sampler.done]

    for one in workers.map(start, requests):
        prefills.append(one)
        if isinstance(one, Prefill):
            active.extend(one.streams)
            one.streams = []
            advance(room=ACTIVE)
    advance(room=0)
    return [
        one
        if isinstance(one, EngineError)
        else SampleResult(
            [sampler.result() for sampler in one.samplers], one.prompt_logprobs, one.topk
        )
        for one in prefills
    ]


@functools.cache
def block_sizes(base: BaseModel) -> tuple[int, ...]:
    """The sizes of blocks in which rows agree.

    That is: a row comes out the same, bit for bit, in whichever block and wherever in it it
    stands. Measured, since no library promises it: the product of each shape in the model and of a
    few LoRA ranks, at both ends of blocks of each size, against the largest block.
    """
    generator = torch.Generator().manual_seed(0)

    def agree(inputs: int, multiply: Callable[[Tensor], list[Tensor]]) -> bool:
        x = torch.randn(SIZES[-1], inputs, generator=generator).to(base.device, base.dtype)
        whole = multiply(x)
        return all(
            torch.equal(y, all_rows[start : start + size])
            for size in SIZES[:-1]
            for start in (0, SIZES[-1] - size)
            for y, all_rows in zip(multiply(x[start : start + size]), whole, strict=True)
        )

    def of_rank(weight: Tensor) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: [functional.linear(x, weight)]

    products = {linear.modules: linear.products.forward for linear in base.linears[:4]}
    products[base.linears[-1].modules] = base.linears[-1].products.forward
    pairs = [(modules[0].inputs, multiply) for modules, multiply in products.items()]
    hidden = base.embedding.shape[1]
    for rank in (1, 8, 16, 32, 64):
        for inputs, outputs in ((hidden, rank), (rank, hidden)):
            weight = torch.randn(outputs, inputs, generator=generator)
            pairs.append((inputs, of_rank(weight.to(base.device, base.dtype))))
    with torch.no_grad():
        equal = all(agree(inputs, multiply) for inputs, multiply in pairs)
    return SIZES if equal else (FIXED,)


def _adapter_runs(base: BaseModel, streams: list[Stream], size: int) -> list[Run]:
    """One run over the whole block for each adapter, which scales the rows of others to zero.

    So the LoRA products are of a fixed shape too, however many rows belong to each adapter.
    """
    scales: dict[str, torch.Tensor] = {}
    adapters = {stream.adapter.key: stream.adapter for stream in streams}
    for row, stream in enumerate(streams):
        key = stream.adapter.key
        if key not in scales:
            scales[key] = torch.zeros(size, 1, device=base.device)
        scales[key][row] = stream.adapter.scale
    return [Run(0, size, adapters[key].views, scale) for key, scale in scales.items()]


def _prompt_logprobs(
    base: BaseModel, adapter: FrozenAdapter, work: SampleWork, normal: Tensor
) -> tuple[list[float | None] | None, list[list[tuple[int, float]] | None] | None]:
    """Of each prompt token given those before it; the first has none before it and is None."""
    count = len(work.prompt) - 1
    if not (work.prompt_logprobs or work.topk_prompt_logprobs):
        return None, None
    targets = torch.tensor(work.prompt[1:], device=base.device)
    chosen: list[float | None] = [None]
    if work.prompt_logprobs:
        chosen += head.logprobs(base, normal[:-1], targets, [adapter.run(0, count)]).tolist()
    if not work.topk_prompt_logprobs:
        return chosen, None
    topk: list[list[tuple[int, float]] | None] = [None]
    for block in normal[:count].split(head.BLOCK[base.device.type]):
        logits = head.logits_of(base, block, [adapter.run(0, len(block))])
        values, ids = torch.log_softmax(logits, dim=-1).topk(work.topk_prompt_logprobs, dim=-1)
        topk += [
            list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)
        ]
    return (chosen if work.prompt_logprobs else None), topk


def _generator(seed: int | None, index: int) -> torch.Generator:
    """Random numbers of sample `index` alone; seeds that follow each other have nothing shared."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    mixed = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
    return generator.manual_seed(mixed)
