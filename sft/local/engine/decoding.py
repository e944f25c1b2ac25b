"""Sampling with a key-value cache: prompts (`prefill`), then samples in joint steps.

A step computes one token for each sample of a block; they may be of several requests and adapters.
The block's number of rows is fixed, or one of a few for which this machine's matrix products were
seen to give equal rows. If there are fewer samples, copies fill the block up. So a row's numbers do
not depend on how many others are in the block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sft.local.engine import head, network, packs, shared_passes
from sft.local.engine.lora import Run
from sft.local.engine.models import BaseModel
from sft.local.engine.packs import Pack
from sft.local.engine.prefill import Prefill, Request, Stream, prefill
from sft.local.engine.shelves import Part, Shelves
from sft.local.engine.workers import Workers
from sft.local.engine_api import EngineError, SampleResult

SIZES = (4, 8, 16, 32)  # rows of a block, if they agree
FIXED = 8  # rows of every block, if they do not
ACTIVE = 64  # samples at a time; the others wait, and their caches take no memory yet


def step(base: BaseModel, parts: list[Part], size: int) -> None:
    """One more token for at most `size` streams, in one pass over a block of so many rows."""
    streams = [stream for part in parts for stream in part.streams]
    rows = streams + [streams[-1]] * (size - len(streams))
    pack = Pack(
        torch.tensor([stream.token for stream in rows], device=base.device),
        torch.tensor([stream.cache.length for stream in rows], device=base.device),
        [1] * size,
        _adapter_runs(base, streams, size),
    )
    bounds = packs.bounds(part.end - part.start for part in parts)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
        for part, (start, end) in zip(parts, bounds, strict=True):
            out[start:end] = part.attend(layer, q[start:end], k[start:end], v[start:end])
        return out.flatten(1)

    normal = network.hidden_states(base, pack, attend)
    logits = head.logits_of(base, normal, pack.runs)
    for row, stream in enumerate(streams):
        stream.cache.length += 1
        stream.token = stream.sampler.take(logits[row])


def sample(
    base: BaseModel,
    requests: list[Request],
    decode: Callable[[list[int]], str],
    workers: Workers,
) -> list[SampleResult | EngineError]:
    """Answer checked requests on one base model, with as many samples in a step as there are."""

    def start(group: list[int]) -> Sequence[Prefill | EngineError]:
        try:
            return prefill(base, [requests[place] for place in group], decode)
        except RuntimeError as error:  # out of memory, for one
            if len(group) > 1:  # a request fails by itself alone
                return [start([place])[0] for place in group]
            return [EngineError(f"The sampling failed: {error}", user=False)]

    sizes = workers.together(block_sizes, base)
    groups = shared_passes.join_prompts(base, [len(work.prompt) for _, work in requests], workers)
    prefills: dict[int, Prefill | EngineError] = {}
    active = Shelves(base)

    def advance(room: int) -> None:
        while len(active) > room:
            size = next((size for size in sizes if size >= len(active)), sizes[-1])
            for block in active.blocks(size):
                workers.together(lambda parts: step(base, parts, size), block)  # noqa: B023
            active.arrange()

    for group, started in zip(groups, workers.map(start, groups), strict=True):
        prefills |= zip(group, started, strict=True)
        for one in started:
            if isinstance(one, Prefill):
                active.add(one.streams)
                one.streams = []
        advance(room=ACTIVE)
    advance(room=0)
    return [
        one
        if isinstance(one, EngineError)
        else SampleResult(
            [sampler.result() for sampler in one.samplers],
            one.prompt_logprobs,
            one.topk,
            one.of_targets,
        )
        for one in (prefills[place] for place in range(len(requests)))
    ]


@functools.cache
def block_sizes(base: BaseModel) -> tuple[int, ...]:
    """The sizes of blocks in which rows agree.

    That is: a row comes out the same, bit for bit, in every block and at every place in it. This is
    measured, since no library promises it: the product of each shape in the model and of a few LoRA
    ranks, at both ends of blocks of each size, against the largest block.
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
    pairs: list[tuple[int, Callable[[Tensor], list[Tensor]]]] = [
        (modules[0].inputs, multiply) for modules, multiply in products.items()
    ]
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

    So the LoRA products are of a fixed shape too; it does not matter how many rows belong to each
    adapter.
    """
    scales: dict[str, torch.Tensor] = {}
    adapters = {stream.adapter.key: stream.adapter for stream in streams}
    for row, stream in enumerate(streams):
        key = stream.adapter.key
        if key not in scales:
            scales[key] = torch.zeros(size, 1, device=base.device)
        scales[key][row] = stream.adapter.scale
    return [Run(0, size, adapters[key].views, scale) for key, scale in scales.items()]
