"""The whole model over a pack: forward, and forward with backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sft.local.engine import head, layer, norm, varlen
from sft.local.engine.aims import Aim
from sft.local.engine.attention import BLOCK, EXPLICIT_TOKENS
from sft.local.engine.models import BaseModel
from sft.local.engine.packs import Pack

# Above this many bytes of kept activations only each layer's input is kept, and the layer is
# computed once more in the backward: a third more arithmetic for a small part of the memory.
KEEP_BYTES = {"cpu": 1 << 30, "cuda": 24 << 30}


def hidden_states(base: BaseModel, pack: Pack, attend: layer.Attend | None = None) -> Tensor:
    """The last normalised hidden states [N, hidden] of a forward alone."""
    context = context_of(base, pack, attend)
    x = functional.embedding(pack.tokens, base.embedding)
    for index in range(len(base.layers)):
        x = layer.forward(context, index, x)
    return norm.forward(x, base.norm, base.eps)[0]


def logprobs(base: BaseModel, pack: Pack, targets: list[Tensor]) -> list[Tensor]:
    """float32 logprobs [n, K] of the targets [n, K] of each run, at every position."""
    return head.logprobs(base, hidden_states(base, pack), targets, pack.runs)


def loss_backward(base: BaseModel, pack: Pack, aims: list[Aim]) -> list[Tensor]:
    """Add the gradients of each run's loss to it.

    Returns:
        float32 logprobs [n, K] of each run's targets; 0.0 in rows that its loss does not need.
    """
    context = context_of(base, pack)
    recompute = _kept_bytes(base, pack.lengths) > KEEP_BYTES[base.device.type]
    x = functional.embedding(pack.tokens, base.embedding)
    kept: list[layer.Kept | Tensor] = []
    one: layer.Kept | Tensor  # of the layer at hand
    for index in range(len(base.layers)):
        if recompute:
            one, x = x, layer.forward(context, index, x)
        else:
            x, one = layer.forward_kept(context, index, x)
        kept.append(one)
    normal, inverse = norm.forward(x, base.norm, base.eps)
    result, dnormal = head.loss_backward(base, normal, aims, pack.runs)
    dx = norm.backward(dnormal, x.float() * inverse, inverse, base.norm)
    for index in reversed(range(len(base.layers))):
        one = kept.pop()
        if isinstance(one, Tensor):
            one = layer.forward_kept(context, index, one)[1]
        dx = layer.backward(context, index, one, dx)
    return result


def context_of(base: BaseModel, pack: Pack, attend: layer.Attend | None = None) -> layer.Context:
    """What the layers of a pass over `pack` share; by default attention within each sequence."""
    cos, sin = base.rope(int(pack.positions.max()) + 1)
    attend_to = varlen.sequences(base, pack) if attend is None else attend
    return layer.Context(base, pack.runs, attend_to, cos[pack.positions], sin[pack.positions])


def tokens_kept(base: BaseModel) -> int:
    """About how many tokens, in sequences of 256, a backward can keep everything of."""
    return 256 * KEEP_BYTES[base.device.type] // _kept_bytes(base, [256])


def _kept_bytes(base: BaseModel, lengths: list[int]) -> int:
    """About how many bytes the backward of a pack keeps."""
    hidden = base.embedding.shape[1]
    heads = 3 * base.heads + 2 * base.kv_heads
    if base.layers[0].norm_qk is not None:
        heads += base.heads + base.kv_heads
    inner = 2 * base.linears[base.layers[0].gate_up].modules[0].outputs
    numbers = sum(lengths) * (2 * hidden + heads * base.head_dim + inner)
    if base.device.type == "cpu":
        explicit = [length for length in lengths if length <= EXPLICIT_TOKENS]
        numbers += sum(base.heads * length * (length + BLOCK) // 2 for length in explicit)
    return numbers * (torch.finfo(base.dtype).bits // 8) * len(base.layers)
