"""Reading base models from disk: config.json and safetensors, straight into `BaseModel`.

Without transformers' model classes: importing them takes longer than reading the weights of a small
model. What this reads of config.json is checked; what it cannot compute is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sft.local.engine import products
from sft.local.engine.models import BaseModel, Kind, Layer, Linear, Module
from sft.local.engine.products import Plain
from sft.local.engine_api import EngineError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # angles depend on position alone
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]

Get = Callable[[str], Tensor]
Tell = Callable[[int, int], None]  # how many parts of a model are there, of how many
Read = tuple[Kind, tuple[Module, ...], Plain]  # a `Linear` with the weights as they were read


def find(name: str, source: str) -> tuple[Path, dict]:
    """The folder of a base model and its config; `source` is a folder or a Hub id.

    Raises `EngineError` if there is no such model, or it is of a kind that is not computed here.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(name, source)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise EngineError(
            f"No model could be read from {source!r}: expected a folder with config.json and "
            f"safetensors, or the id of a model on the Hub ({error})."
        ) from error
    _check(name, config)
    return folder, config


def load(
    name: str,
    folder: Path,
    config: dict,
    dtype: torch.dtype,
    device: torch.device,
    tell: Tell = lambda done, parts: None,
) -> BaseModel:
    """Read the weights of a model that `find` has found; `tell` hears how far that is."""
    get, has = _weights(name, folder, dtype, device)
    read: list[Read] = []
    layers: list[Layer] = []
    count = config["num_hidden_layers"]
    for index in range(count):
        tell(index, 2 * count)  # each is read, then laid out
        layers.append(_layer(f"model.layers.{index}.", get, has, read))
    embedding = get("model.embed_tokens.weight")
    tied = config.get("tie_word_embeddings", False) or not has("lm_head.weight")
    unembedding = embedding if tied else get("lm_head.weight")
    module = Module("lm_head", unembedding.shape[1], unembedding.shape[0])
    read.append(("unembed", (module,), Plain((unembedding,), (None,))))
    parameters = sum(m.inputs * m.outputs for _, modules, _ in read for m in modules)
    make = products.way(device, dtype, parameters)
    linears: list[Linear] = []
    read.reverse()
    whole = len(read)
    while read:  # one by one: the plain weights go on the way
        tell(count + count * (whole - len(read)) // whole, 2 * count)
        kind, modules, plain = read.pop()
        linears.append(Linear(kind, modules, make(plain)))
    head_dim = config.get("head_dim") or (
        128 if config["model_type"] == "qwen3"
        else config["hidden_size"] // config["num_attention_heads"]
    )  # fmt: skip
    frequencies, scaling = _rope(folder, config, head_dim)
    heads = config["num_attention_heads"]
    return BaseModel(
        name=name,
        device=device,
        dtype=dtype,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        eps=config["rms_norm_eps"],
        eos=_end_of_text(folder, config),
        embedding=embedding,
        layers=layers,
        norm=get("model.norm.weight"),
        linears=linears,
        inverse_frequencies=frequencies.to(device),
        rope_scaling=scaling,
    )


def _layer(prefix: str, get: Get, has: Callable[[str], bool], read: list[Read]) -> Layer:
    """Read one layer; its projections are appended to `read`."""

    def linear(kind: Kind, *names: str) -> int:
        paths = [prefix + name for name in names]
        weights = tuple(get(f"{path}.weight") for path in paths)
        modules = tuple(
            Module(path, weight.shape[1], weight.shape[0])
            for path, weight in zip(paths, weights, strict=True)
        )
        biased = has(f"{paths[0]}.bias")
        biases = tuple(get(f"{path}.bias") if biased else None for path in paths)
        read.append((kind, modules, Plain(weights, biases)))
        return len(read) - 1

    qwen3 = has(f"{prefix}self_attn.q_norm.weight")
    return Layer(
        qkv=linear("attn", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=linear("attn", "self_attn.o_proj"),
        gate_up=linear("mlp", "mlp.gate_proj", "mlp.up_proj"),
        down=linear("mlp", "mlp.down_proj"),
        norm_attn=get(f"{prefix}input_layernorm.weight"),
        norm_mlp=get(f"{prefix}post_attention_layernorm.weight"),
        norm_qk=(
            (get(f"{prefix}self_attn.q_norm.weight"), get(f"{prefix}self_attn.k_norm.weight"))
            if qwen3
            else None
        ),
    )


def _weights(
    name: str, folder: Path, dtype: torch.dtype, device: torch.device
) -> tuple[Get, Callable[[str], bool]]:
    """How to get a tensor by its name, in `dtype` on `device`, and whether there is one."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise EngineError(
            f"The base model {name!r} has no model*.safetensors in {folder}: save it with "
            "save_pretrained of transformers."
        )
    try:
        shards = [safe_open(file, framework="pt") for file in files]
    except SafetensorError as error:
        raise EngineError(f"The weights of {name!r} in {folder} are damaged: {error}") from error
    where = {key: shard for shard in shards for key in shard.keys()}  # noqa: SIM118

    def get(key: str) -> Tensor:
        if key not in where:
            raise EngineError(f"The base model {name!r} lacks the tensor {key} ({folder}).")
        tensor = where[key].get_tensor(key)
        # A tensor of a safetensors file is a view of the mapped file: a copy does not page later.
        return tensor.to(device, dtype, copy=True)

    return get, where.__contains__


def _rope(folder: Path, config: dict, head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies [head_dim / 2] and the factor on cosine and sine."""
    parameters = _rope_parameters(config)
    if parameters["rope_type"] != "default":
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, scaling = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](
            AutoConfig.from_pretrained(folder), torch.device("cpu")
        )
        return frequencies.float(), float(scaling)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return 1.0 / (parameters["rope_theta"] ** exponents), 1.0


def _rope_parameters(config: dict) -> dict:
    """As transformers 5 writes them (`rope_parameters`), or as older models have them."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return {
        "rope_theta": scaling.get("rope_theta", config.get("rope_theta", 10000.0)),
        "rope_type": scaling.get("rope_type", scaling.get("type", "default")),
    }


def _end_of_text(folder: Path, config: dict) -> frozenset[int]:
    generation = folder / "generation_config.json"
    said = json.loads(generation.read_text()) if generation.is_file() else {}
    eos = said.get("eos_token_id", config.get("eos_token_id"))
    return frozenset([eos] if isinstance(eos, int) else eos or [])


def _download(name: str, source: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=PATTERNS))
    except (OSError, ValueError) as error:  # what huggingface_hub raises, offline or not found
        reason = str(error).splitlines()[0]
        raise EngineError(
            f"The base model {name!r} is neither a folder nor could it be had from the Hub as "
            f"{source!r}: {reason}"
        ) from error


def _check(name: str, config: dict) -> None:
    """Refuse what would be computed wrongly."""
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise EngineError(
            f"The base model {name!r} is of type {kind!r}: the local service computes "
            f"{', '.join(MODEL_TYPES)}."
        )
    rope = _rope_parameters(config)["rope_type"]
    windows = "sliding_attention" in (config.get("layer_types") or [])
    windows |= bool(config.get("use_sliding_window"))
    windows |= kind == "mistral" and bool(config.get("sliding_window"))
    for what, wrong in (
        (f"rotary embeddings of type {rope!r}", rope not in ROPE_TYPES),
        ("partial rotary embeddings", config.get("partial_rotary_factor", 1.0) != 1.0),
        ("sliding-window attention", windows),
        (f"the activation {config.get('hidden_act')!r}", config.get("hidden_act") != "silu"),
        ("quantised weights", "quantization_config" in config),
    ):
        if wrong:
            raise EngineError(
                f"The base model {name!r} has {what}, which the local service does not compute: "
                "choose another model."
            )
