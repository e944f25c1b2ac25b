"""Attention of all sequences of a pack in one kernel, if this GPU has it.

Sequence by sequence, a pack of 32 short ones calls 32 kernels for every layer and direction; the
calls take longer than the kernels. The kernel for sequences end to end (FlashAttention-2, Dao 2023;
torch ships it) computes in 16 bits, on GPUs from Ampere on, and not for every size of head. A trial
on this very GPU says whether it takes a base model's heads, and whether it gives what each sequence
gives by itself.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from sft.local.engine import attention, packs
from sft.local.engine.attention import Sequences
from sft.local.engine.models import BaseModel
from sft.local.engine.packs import Pack

logger = logging.getLogger("sft.local")

DEVICES = ("cuda",)
TRIAL = [3, 130, 64]  # lengths of the sequences that are computed in both ways
TOLERANCE = 0.02  # of the largest number: bfloat16 has 8 bits
SLOWER = "Attention goes sequence by sequence, which is slower: %s"


def sequences(base: BaseModel, pack: Pack) -> Sequences:
    """Where the sequences of `pack` lie, and whether one kernel takes them all."""
    if base.device.type not in DEVICES or base.dtype == torch.float32 or len(pack.lengths) == 1:
        return Sequences(packs.bounds(pack.lengths))
    if base.one_attention is None:
        base.one_attention = agrees(base)
    starts = _starts(base, pack.lengths) if base.one_attention else None
    return Sequences(packs.bounds(pack.lengths), starts)


def agrees(base: BaseModel) -> bool:
    """Whether one kernel gives the attention, and its gradients, of each sequence by itself.

    Warns if it does not: the numbers are right all the same, but come more slowly.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (
        torch.randn(sum(TRIAL), heads, base.head_dim, generator=generator).to(
            base.device, base.dtype
        )
        for heads in (base.heads, base.kv_heads, base.kv_heads, base.heads)
    )
    starts = _starts(base, TRIAL)
    bounds = packs.bounds(TRIAL)
    try:
        results = _attend(Sequences(bounds, starts), base.attention_scale, q, k, v, dout)
    except RuntimeError as error:  # torch says so if its kernel does not take this
        logger.warning(SLOWER, error)
        return False
    expected = _attend(Sequences(bounds), base.attention_scale, q, k, v, dout)
    agree = all(
        bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
        for one, other in zip(results, expected, strict=True)
    )
    if not agree:
        logger.warning(SLOWER, "the kernel for all of them gives other numbers on this GPU")
    return agree


def _attend(
    sequences: Sequences, scale: float, q: Tensor, k: Tensor, v: Tensor, dout: Tensor
) -> list[Tensor]:
    """Forward and backward: the output and the gradients of q, k and v."""
    out, kept = attention.forward(q, k, v, sequences, scale, keep=True)
    gradients = tuple(torch.empty_like(part) for part in (q, k, v))
    attention.backward(kept, dout, gradients)
    return [out, *gradients]


def _starts(base: BaseModel, lengths: list[int]) -> Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(base.device, torch.int32)
