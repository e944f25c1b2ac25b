"""Causal attention within each sequence of a pack, and the rotary embedding.

Each sequence is attended to by itself with the fused kernel that torch ships: no mask, no padding,
nothing crosses sequences, and the numbers of a sequence are the same whatever is packed with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) of x [N, heads, head_dim]; cos, sin are [N, head_dim]."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos[:, None]).addcmul_(turned, sin[:, None])


def unrotate(dx: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The transpose of `rotate`: its backward."""
    half = dx.shape[-1] // 2
    weighted = dx * sin[:, None]
    turned = torch.cat((weighted[..., half:], -weighted[..., :half]), dim=-1)
    return turned.addcmul_(dx, cos[:, None])


@dataclass
class Attended:
    """One sequence's attention, kept for its backward: leaves q, k, v and the output."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


def forward(
    q: Tensor, k: Tensor, v: Tensor, bounds: list[tuple[int, int]], scale: float, keep: bool
) -> tuple[Tensor, list[Attended]]:
    """q [N, heads, D], k and v [N, kv_heads, D] -> [N, heads * D], and what backward needs."""
    out = torch.empty_like(q)
    kept = []
    for start, end in bounds:
        parts = [part[start:end].transpose(0, 1)[None] for part in (q, k, v)]
        if not keep:
            one = _attend(*parts, scale)
        else:
            parts = [part.detach().requires_grad_() for part in parts]
            with torch.enable_grad():
                one = _attend(*parts, scale)
            kept.append(Attended(*parts, one))
        out[start:end] = one.detach()[0].transpose(0, 1)
    return out.flatten(1), kept


def backward(
    kept: list[Attended], dout: Tensor, bounds: list[tuple[int, int]], dqkv: tuple[Tensor, ...]
) -> None:
    """dout [N, heads * D]; writes the gradients of q, k, v into `dqkv`, shaped like them."""
    for (start, end), part in zip(bounds, kept, strict=True):
        heads, length, dim = part.out.shape[1:]
        gradient = dout[start:end].view(length, heads, dim).transpose(0, 1)[None]
        gradients = torch.autograd.grad(part.out, (part.q, part.k, part.v), gradient)
        for target, value in zip(dqkv, gradients, strict=True):
            target[start:end] = value[0].transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
    )
