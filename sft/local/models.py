"""Base models: the frozen weights of a Llama- or Qwen3-style causal LM, laid out for computing.

Projections that read the same input (q, k, v; gate, up) stand together. The weights are shared by
every adapter and never take a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sft.local.engine_api import EngineError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose angles depend on position alone
Kind = Literal["attn", "mlp", "unembed"]


@dataclass(frozen=True)
class Module:
    """One projection that an adapter can sit on; `path` as in the transformers model."""

    path: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Linear:
    """Frozen projections that share an input: each a weight [outputs, inputs], perhaps a bias."""

    kind: Kind
    modules: tuple[Module, ...]
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Layer:
    """One decoder layer. The indices are those of `BaseModel.linears`; norms are [hidden]."""

    qkv: int
    out: int
    gate_up: int
    down: int
    norm_attn: Tensor
    norm_mlp: Tensor
    norm_q: Tensor | None  # [head_dim], Qwen3 alone
    norm_k: Tensor | None


@dataclass
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
    """`auto` is the first GPU where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor multiplies it fast, else float32.

    Raises:
        EngineError: the name is none of auto, float32, bfloat16.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise EngineError(f"dtype is {dtype!r}: expected auto, float32 or bfloat16.")
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        if device.type == "cpu":
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        dtype = "bfloat16" if fast else "float32"
    return getattr(torch, dtype)


def context_length(source: str) -> int:
    """The context of the model at `source` (a folder or Hub id), without loading its weights."""
    return _config(source).max_position_embeddings


def load(name: str, source: str, dtype: torch.dtype, device: torch.device) -> BaseModel:
    """Load the model at `source`, a folder or a Hub id.

    Raises:
        EngineError: there is no such model, or it is not built like Llama or Qwen3.
    """
    from transformers import AutoModelForCausalLM

    config = _config(source)
    _check(name, config)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa")
    return from_transformers(name, model, dtype, device)


def from_transformers(
    name: str, model: torch.nn.Module, dtype: torch.dtype, device: torch.device
) -> BaseModel:
    """Lay out the weights of a transformers model (which is not needed any more afterwards)."""
    config = model.config
    _check(name, config)

    def own(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, dtype).contiguous()

    linears: list[Linear] = []

    def linear(kind: Kind, prefix: str, parent: torch.nn.Module, *names: str) -> int:
        parts = [getattr(parent, part) for part in names]
        modules = tuple(
            Module(prefix + part, module.in_features, module.out_features)
            for part, module in zip(names, parts, strict=True)
        )
        weights = tuple(own(part.weight) for part in parts)
        has_bias = parts[0].bias is not None
        biases = tuple(own(part.bias) for part in parts) if has_bias else None
        linears.append(Linear(kind, modules, weights, biases))
        return len(linears) - 1

    layers = []
    for index, layer in enumerate(model.model.layers):
        prefix = f"model.layers.{index}."
        attention, mlp = layer.self_attn, layer.mlp
        head_norms = [getattr(attention, which, None) for which in ("q_norm", "k_norm")]
        layers.append(
            Layer(
                qkv=linear("attn", f"{prefix}self_attn.", attention, "q_proj", "k_proj", "v_proj"),
                out=linear("attn", f"{prefix}self_attn.", attention, "o_proj"),
                gate_up=linear("mlp", f"{prefix}mlp.", mlp, "gate_proj", "up_proj"),
                down=linear("mlp", f"{prefix}mlp.", mlp, "down_proj"),
                norm_attn=own(layer.input_layernorm.weight),
                norm_mlp=own(layer.post_attention_layernorm.weight),
                norm_q=own(head_norms[0].weight) if head_norms[0] else None,
                norm_k=own(head_norms[1].weight) if head_norms[1] else None,
            )
        )
    linear("unembed", "", model, "lm_head")
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    eos = (model.generation_config or config).eos_token_id
    rotary = model.model.rotary_emb
    return BaseModel(
        name=name,
        device=device,
        dtype=dtype,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=_head_dim(config),
        vocab=config.vocab_size,
        context=config.max_position_embeddings,
        eps=config.rms_norm_eps,
        eos=frozenset([eos] if isinstance(eos, int) else eos or []),
        embedding=linears[-1].weights[0] if tied else own(model.model.embed_tokens.weight),
        layers=layers,
        norm=own(model.model.norm.weight),
        linears=linears,
        inverse_frequencies=rotary.inv_freq.float().to(device),
        rope_scaling=rotary.attention_scaling,
    )


def _head_dim(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _config(source: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"No model could be read from {source!r}: expected a folder with config.json and "
            f"safetensors, or the id of a model on the Hub ({reason})"
        ) from error


def _check(name: str, config) -> None:
    """Refuse what this engine would compute wrongly."""
    if config.model_type not in MODEL_TYPES:
        raise EngineError(
            f"The base model {name!r} is of type {config.model_type!r}: the local service "
            f"computes {', '.join(MODEL_TYPES)}."
        )
    rope = config.rope_parameters["rope_type"]
    windows = "sliding_attention" in (getattr(config, "layer_types", None) or [])
    windows |= config.model_type == "mistral" and bool(config.sliding_window)
    for what, wrong in (
        (f"rotary embeddings of type {rope!r}", rope not in ROPE_TYPES),
        ("sliding-window attention", windows),
        (f"the activation {config.hidden_act!r}", config.hidden_act != "silu"),
        ("biases in the MLP", bool(getattr(config, "mlp_bias", False))),
    ):
        if wrong:
            raise EngineError(
                f"The base model {name!r} has {what}, which the local service does not compute: "
                "choose another model."
            )
