"""Base models: the frozen weights of a Llama- or Qwen3-style causal LM, laid out for computing.

Projections that read the same input (q, k, v; gate, up) stand together. The weights are shared by
every adapter and never take a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sft.local.engine import products
from sft.local.engine.products import Products
from sft.local.engine_api import EngineError

Kind = Literal["attn", "mlp", "unembed"]
MULTIPLIERS = ("avx512_bf16", "amx_bf16", "bf16")  # instructions for bfloat16; the last are ARM's


@dataclass(frozen=True)
class Module:
    """One projection that an adapter can sit on; `path` as in the transformers model."""

    path: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Linear:
    """Frozen projections that share an input, and the products with their weights."""

    kind: Kind
    modules: tuple[Module, ...]
    products: Products


@dataclass(frozen=True)
class Layer:
    """One decoder layer. The indices are those of `BaseModel.linears`; norms are [hidden]."""

    qkv: int
    out: int
    gate_up: int
    down: int
    norm_attn: Tensor
    norm_mlp: Tensor
    norm_qk: tuple[Tensor, Tensor] | None  # [head_dim] each, Qwen3 alone


@dataclass(eq=False)
class BaseModel:
    """A base model ready to compute with. `linears[-1]` is the unembedding."""

    name: str
    device: torch.device
    dtype: torch.dtype
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    eps: float
    eos: frozenset[int]
    embedding: Tensor  # [vocab, hidden]
    layers: list[Layer]
    norm: Tensor
    linears: list[Linear]
    inverse_frequencies: Tensor  # [head_dim / 2], float32
    rope_scaling: float
    rows_together: int | None = None  # see shared_passes.py; None until it has been tried
    one_attention: bool | None = None  # see varlen.py; None until it has been tried
    _rope: tuple[Tensor, Tensor] | None = None

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5

    def rope(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [>= length, head_dim] of the rotary embedding, in the model's dtype."""
        if self._rope is None or len(self._rope[0]) < length:
            size = min(max(256, 1 << (length - 1).bit_length()), max(self.context, length))
            position = torch.arange(size, device=self.device, dtype=torch.float32)
            angle = torch.outer(position, self.inverse_frequencies)
            angle = torch.cat((angle, angle), dim=-1)
            self._rope = (
                (angle.cos() * self.rope_scaling).to(self.dtype),
                (angle.sin() * self.rope_scaling).to(self.dtype),
            )
        return self._rope


def pick_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 if that is fast on `device`, else float32.

    Raises `EngineError` if the name is none of auto, float32, bfloat16.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise EngineError(f"dtype is {dtype!r}: expected auto, float32 or bfloat16.")
    if dtype == "auto":
        dtype = "bfloat16" if is_fast_at_bfloat16(device) else "float32"
    return getattr(torch, dtype)


def is_fast_at_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 take less time than in float32.

    Judged by what the processor has and oneDNN takes, not by a stopwatch: what else the machine
    does when a service starts must not decide about the numbers of its runs.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in MULTIPLIERS) and products.reorders()
