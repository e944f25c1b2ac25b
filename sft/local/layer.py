"""One decoder layer over a pack, forward and backward, written out by hand.

Autograd would keep every intermediate and go module by module; here only what the backward needs
is kept, what is cheap is computed again, and frozen weights cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sft.local import attention, linear, norm
from sft.local.lora import Run
from sft.local.models import BaseModel, Layer

# Attention over a key-value cache: (layer index, q, k, v) -> output [N, heads * head_dim].
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Context:
    """What all layers of one pass share. cos, sin: [N, head_dim]."""

    base: BaseModel
    runs: list[Run]
    bounds: list[tuple[int, int]]
    cos: Tensor
    sin: Tensor
    keep: bool  # for a backward
    attend: Attend | None = None  # None: causal attention within each sequence


@dataclass
class Kept:
    """What the backward of one layer needs. Rows are the pack's N tokens."""

    x: Tensor
    norm_attn: tuple[Tensor, Tensor]  # normalised x, 1 / rms
    qkv: Tensor  # before head norms
    hidden_qkv: linear.Hidden
    inverse_q: Tensor | None
    inverse_k: Tensor | None
    attended: list[attention.Attended]
    mixed: Tensor
    hidden_out: linear.Hidden
    middle: Tensor  # x + attention
    norm_mlp: tuple[Tensor, Tensor]
    gate_up: Tensor
    hidden_gate_up: linear.Hidden
    hidden_down: linear.Hidden


def forward(context: Context, index: int, x: Tensor) -> tuple[Tensor, Kept | None]:
    """x [N, hidden] -> the layer's output [N, hidden], and what `backward` needs if kept."""
    base, runs = context.base, context.runs
    layer = base.layers[index]
    normal, inverse = norm.forward(x, layer.norm_attn, base.eps)
    qkv, hidden_qkv = linear.forward(base.linears[layer.qkv], layer.qkv, normal, runs)
    q, k, v = _heads(base, qkv)
    inverse_q = inverse_k = None
    if layer.norm_q is not None:
        q, inverse_q = norm.forward(q, layer.norm_q, base.eps)
        k, inverse_k = norm.forward(k, layer.norm_k, base.eps)
    q = attention.rotate(q, context.cos, context.sin)
    k = attention.rotate(k, context.cos, context.sin)
    if context.attend is None:
        mixed, attended = attention.forward(
            q, k, v, context.bounds, base.attention_scale, context.keep
        )
    else:
        mixed, attended = context.attend(index, q, k, v), []
    out, hidden_out = linear.forward(base.linears[layer.out], layer.out, mixed, runs)
    middle = x + out
    normal_mlp, inverse_mlp = norm.forward(middle, layer.norm_mlp, base.eps)
    gate_up, hidden_gate_up = linear.forward(
        base.linears[layer.gate_up], layer.gate_up, normal_mlp, runs
    )
    down, hidden_down = linear.forward(
        base.linears[layer.down], layer.down, _activate(gate_up), runs
    )
    y = middle + down
    if not context.keep:
        return y, None
    return y, Kept(
        x=x,
        norm_attn=(normal, inverse),
        qkv=qkv,
        hidden_qkv=hidden_qkv,
        inverse_q=inverse_q,
        inverse_k=inverse_k,
        attended=attended,
        mixed=mixed,
        hidden_out=hidden_out,
        middle=middle,
        norm_mlp=(normal_mlp, inverse_mlp),
        gate_up=gate_up,
        hidden_gate_up=hidden_gate_up,
        hidden_down=hidden_down,
    )


def backward(context: Context, index: int, kept: Kept, dy: Tensor) -> Tensor:
    """Gradient of the output [N, hidden] -> of the input; adds to the runs' LoRA gradients."""
    base = context.base
    layer = base.layers[index]
    dmiddle = dy + _backward_mlp(context, layer, kept, dy)
    dmixed = linear.backward(
        base.linears[layer.out], layer.out, kept.mixed, kept.hidden_out, dmiddle, context.runs
    )
    dqkv = torch.empty_like(kept.qkv)
    dq, dk, dv = _heads(base, dqkv)
    attention.backward(kept.attended, dmixed, context.bounds, (dq, dk, dv))
    q, k, _ = _heads(base, kept.qkv)
    heads = (
        (dq, q, layer.norm_q, kept.inverse_q),
        (dk, k, layer.norm_k, kept.inverse_k),
    )
    for part, value, weight, inverse in heads:
        gradient = attention.unrotate(part, context.cos, context.sin)
        if weight is not None:
            gradient = norm.backward(gradient, value, inverse, weight)
        part.copy_(gradient)
    normal, inverse = kept.norm_attn
    dnormal = linear.backward(
        base.linears[layer.qkv], layer.qkv, normal, kept.hidden_qkv, dqkv, context.runs
    )
    return dmiddle.add_(norm.backward(dnormal, kept.x, inverse, layer.norm_attn))


def _backward_mlp(context: Context, layer: Layer, kept: Kept, dy: Tensor) -> Tensor:
    base = context.base
    activated = _activate(kept.gate_up)
    dactivated = linear.backward(
        base.linears[layer.down], layer.down, activated, kept.hidden_down, dy, context.runs
    )
    gate, up = kept.gate_up.chunk(2, dim=-1)
    dgate_up = torch.empty_like(kept.gate_up)
    dgate, dup = dgate_up.chunk(2, dim=-1)
    torch.mul(dactivated, functional.silu(gate), out=dup)
    dgate.copy_(torch.ops.aten.silu_backward(dactivated.mul_(up), gate))
    normal, inverse = kept.norm_mlp
    dnormal = linear.backward(
        base.linears[layer.gate_up], layer.gate_up, normal, kept.hidden_gate_up, dgate_up,
        context.runs,
    )  # fmt: skip
    return norm.backward(dnormal, kept.middle, inverse, layer.norm_mlp)


def _activate(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def _heads(base: BaseModel, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of [N, (heads + 2 kv_heads) * D] as q, k, v of [N, heads, D]."""
    heads = qkv.view(len(qkv), -1, base.head_dim)
    return heads.split([base.heads, base.kv_heads, base.kv_heads], dim=1)
