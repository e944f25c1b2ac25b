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

from sft.local.engine import attention, linear, norm
from sft.local.engine.lora import Run
from sft.local.engine.models import BaseModel, Layer

# Attention over a key-value cache: (layer index, q, k, v) -> output [N, heads * head_dim].
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Context:
    """What all layers of one pass share. cos, sin: [N, head_dim]."""

    base: BaseModel
    runs: list[Run]
    attend: attention.Sequences | Attend  # within each sequence, or over a cache
    cos: Tensor
    sin: Tensor


@dataclass
class RawQK:
    """q, k [N, heads, head_dim] before their norms, and 1 / rms of each."""

    q: Tensor
    k: Tensor
    inverse_q: Tensor
    inverse_k: Tensor


@dataclass
class Kept:
    """What the backward of one layer needs. Rows are the pack's N tokens."""

    x: Tensor
    inverse_attn: Tensor  # 1 / rms of x; the normalised x is computed again
    raw_qk: RawQK | None  # if they are normalised
    hidden_qkv: linear.Hidden
    attended: list[attention.Attended]
    mixed: Tensor
    hidden_out: linear.Hidden
    middle: Tensor  # x + attention
    inverse_mlp: Tensor
    gate: Tensor
    up: Tensor
    hidden_gate_up: linear.Hidden
    hidden_down: linear.Hidden


def forward(context: Context, index: int, x: Tensor) -> Tensor:
    """x [N, hidden] -> the layer's output [N, hidden]."""
    return _forward(context, index, x, keep=False)[0]


def forward_kept(context: Context, index: int, x: Tensor) -> tuple[Tensor, Kept]:
    """The same output, and what `backward` needs."""
    y, kept = _forward(context, index, x, keep=True)
    assert kept is not None
    return y, kept


def _forward(context: Context, index: int, x: Tensor, keep: bool) -> tuple[Tensor, Kept | None]:
    base, runs = context.base, context.runs
    layer = base.layers[index]
    normal, inverse_attn = norm.forward(x, layer.norm_attn, base.eps)
    qkv, hidden_qkv = linear.forward(base.linears[layer.qkv], layer.qkv, normal, runs)
    q, k, v = (part.view(len(x), -1, base.head_dim) for part in qkv)
    raw_qk = None
    if layer.norm_qk is not None:
        norm_q, norm_k = layer.norm_qk
        raw_q, raw_k = q, k
        q, inverse_q = norm.forward(q, norm_q, base.eps)
        k, inverse_k = norm.forward(k, norm_k, base.eps)
        raw_qk = RawQK(raw_q, raw_k, inverse_q, inverse_k)
    q = attention.rotate(q, context.cos, context.sin)
    k = attention.rotate(k, context.cos, context.sin)
    attended: list[attention.Attended] = []
    if isinstance(context.attend, attention.Sequences):
        mixed, attended = attention.forward(q, k, v, context.attend, base.attention_scale, keep)
    else:
        mixed = context.attend(index, q, k, v)
    (out,), hidden_out = linear.forward(base.linears[layer.out], layer.out, mixed, runs)
    middle = x + out
    normal_mlp, inverse_mlp = norm.forward(middle, layer.norm_mlp, base.eps)
    (gate, up), hidden_gate_up = linear.forward(
        base.linears[layer.gate_up], layer.gate_up, normal_mlp, runs
    )
    (down,), hidden_down = linear.forward(
        base.linears[layer.down], layer.down, _activate(gate, up), runs
    )
    y = middle + down
    if not keep:
        return y, None
    return y, Kept(
        x=x,
        inverse_attn=inverse_attn,
        raw_qk=raw_qk,
        hidden_qkv=hidden_qkv,
        attended=attended,
        mixed=mixed,
        hidden_out=hidden_out,
        middle=middle,
        inverse_mlp=inverse_mlp,
        gate=gate,
        up=up,
        hidden_gate_up=hidden_gate_up,
        hidden_down=hidden_down,
    )


def backward(context: Context, index: int, kept: Kept, dy: Tensor) -> Tensor:
    """Gradient of the output [N, hidden] -> of the input; adds to the runs' LoRA gradients."""
    base = context.base
    layer = base.layers[index]
    dmiddle = dy + _backward_mlp(context, layer, kept, dy)
    dmixed = linear.backward(
        base.linears[layer.out], layer.out, kept.mixed, kept.hidden_out, [dmiddle], context.runs
    )
    dmixed = dmixed.view(len(dy), base.heads, base.head_dim)
    dq = torch.empty_like(dmixed)
    dk, dv = (dmixed.new_empty(len(dy), base.kv_heads, base.head_dim) for _ in range(2))
    attention.backward(kept.attended, dmixed, (dq, dk, dv))
    dq = attention.unrotate(dq, context.cos, context.sin)
    dk = attention.unrotate(dk, context.cos, context.sin)
    if layer.norm_qk is not None and kept.raw_qk is not None:
        raw, (norm_q, norm_k) = kept.raw_qk, layer.norm_qk
        dq = norm.backward(dq, raw.q.float() * raw.inverse_q, raw.inverse_q, norm_q)
        dk = norm.backward(dk, raw.k.float() * raw.inverse_k, raw.inverse_k, norm_k)
    dqkv = [part.flatten(1) for part in (dq, dk, dv)]
    x, normal = norm.again(kept.x, layer.norm_attn, kept.inverse_attn)
    dx = linear.backward(base.linears[layer.qkv], layer.qkv, x, kept.hidden_qkv, dqkv, context.runs)
    return dmiddle.add_(norm.backward(dx, normal, kept.inverse_attn, layer.norm_attn))


def _backward_mlp(context: Context, layer: Layer, kept: Kept, dy: Tensor) -> Tensor:
    base, gate, up = context.base, kept.gate, kept.up
    silu = functional.silu(gate)
    dactivated = linear.backward(
        base.linears[layer.down], layer.down, silu * up, kept.hidden_down, [dy], context.runs
    )
    dup = silu.mul_(dactivated)
    dgate = torch.ops.aten.silu_backward(dactivated.mul_(up), gate)
    x, normal = norm.again(kept.middle, layer.norm_mlp, kept.inverse_mlp)
    dx = linear.backward(
        base.linears[layer.gate_up], layer.gate_up, x, kept.hidden_gate_up, [dgate, dup],
        context.runs,
    )  # fmt: skip
    return norm.backward(dx, normal, kept.inverse_mlp, layer.norm_mlp)


def _activate(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate).mul_(up)
