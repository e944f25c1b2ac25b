"""A model's folder as one GGUF file, which llama.cpp and Ollama load.

The package `gguf` writes the file and knows the names of the tensors; what stands here is what
llama.cpp expects of each architecture beside the names. Values keep their type (vectors are
float32, as llama.cpp wants them), so that nothing is lost; `llama-quantize` or `ollama create -q`
makes the file smaller.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from transformers import PretrainedConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Kinds of models (`model_type`) that are written, by the same name in both worlds."""
ELSEWHERE = "llama.cpp's convert_hf_to_gguf.py may write one of the merged model (--merge)"
INSTALL = "pip install gguf"


def check_architecture(base: str) -> None:
    """Raise `BadInput` if the model `base` (a folder or a Hub id) cannot become a GGUF file."""
    from transformers import AutoConfig

    if importlib.util.find_spec("gguf") is None:
        raise BadInput(f"--gguf: the file is written by the package gguf: run `{INSTALL}`")
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise BadInput(f"{base}: cannot be loaded: {str(error).splitlines()[0]}") from None
    if config.model_type not in ARCHITECTURES:
        raise BadInput(
            f"--gguf: {base} is a {config.model_type}, and no file is written here but of "
            f"{', '.join(ARCHITECTURES)}; {ELSEWHERE}"
        )
    if (kind := config.rope_parameters["rope_type"]) != "default":
        raise BadInput(
            f"--gguf: {base} has positions of the kind {kind}, and no file is written here but of "
            f"the default ones; {ELSEWHERE}"
        )


def write_gguf(folder: Path, target: Path) -> None:
    """Write the model and the tokenizer in `folder` to the file `target`.

    Raises `BadInput` if llama.cpp has no such tokenizer.
    """
    from gguf import GGUFWriter
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    writer = GGUFWriter(target, config.model_type)
    _describe(writer, config)
    _add_tokenizer(writer, folder, config.vocab_size)
    _add_tensors(writer, folder, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tensors(writer: GGUFWriter, folder: Path, config: PretrainedConfig) -> None:
    import gguf
    import torch

    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    types = {
        torch.float32: gguf.GGMLQuantizationType.F32,
        torch.float16: gguf.GGMLQuantizationType.F16,
        torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    }
    for name, tensor in _tensors(folder):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise BadInput(f"--gguf: GGUF has no name for the tensor {name}; {ELSEWHERE}")
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            is_key = name.endswith("k_proj.weight")
            tensor = _interleaved(
                tensor, config.num_key_value_heads if is_key else config.num_attention_heads
            )
        kind = types[torch.float32 if tensor.ndim == 1 else tensor.dtype]
        data = tensor.float().contiguous().numpy()
        writer.add_tensor(found, gguf.quants.quantize(data, kind), raw_dtype=kind)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dict
                yield name, tensors.get_tensor(name)


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head in llama.cpp's order for a Llama: it rotates neighbours (2i, 2i + 1),
    where transformers rotates the two halves of a head."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> None:
    """The byte-level BPE of `tokenizer.json`, its special tokens and its chat template."""
    import gguf
    from transformers import AutoTokenizer

    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if whole["model"].get("type") != "BPE" or whole["model"].get("byte_fallback"):
        raise BadInput(f"--gguf: the tokenizer is no byte-level BPE; {ELSEWHERE}")
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for token, index in whole["model"]["vocab"].items():
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for added in whole["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        types[added["id"]] = kind
    writer.add_tokenizer_model("gpt2")
    merges = whole["model"]["merges"]
    writer.add_tokenizer_pre(_splitting(whole["pre_tokenizer"], has_merges=bool(merges)))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("bos", "eos", "pad"):
        if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(False)  # the chat template writes it
    writer.add_chat_template(tokenizer.chat_template)


WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern that Llama 3 and Qwen split text by, with NUMBER for that of numbers."""
NUMBERS = {r"\p{N}{1,3}": "llama-bpe", r"\p{N}": "qwen2"}


def _splitting(pre_tokenizer: dict[str, Any] | None, has_merges: bool) -> str:
    """llama.cpp's name for how a tokenizer splits text before it merges. Raises `BadInput`."""
    steps = (pre_tokenizer or {}).get("pretokenizers") or [pre_tokenizer or {}]
    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if kinds == ["ByteLevel"] and (steps[0].get("use_regex", True) or not has_merges):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"]:
        for number, name in NUMBERS.items():
            if steps[0]["pattern"].get("Regex") == WORDS.replace("NUMBER", number):
                return name
    raise BadInput(f"--gguf: llama.cpp has no name for how the tokenizer splits text; {ELSEWHERE}")
