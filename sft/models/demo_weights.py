"""Unpacks the demo model: what `demo` runs, as `python -m sft.models.demo_weights`.

In a process of its own, for a command's own leaves PyTorch out (see `without_torch`), which
transformers wants in order to read a GGUF file. It is asked for config and tokenizer alone: its
models take accelerate as well, and longer.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sft.models.importing import auto_config, auto_tokenizer

if TYPE_CHECKING:
    import numpy as np

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Of a Llama's tensors in a GGUF file, as transformers calls them."""


def unpack(source: Path, file: str, target: Path, name: str) -> None:
    """Write the Llama called `name`, its tokenizer and its chat template from a GGUF `file`, as
    float32: that keeps the dequantised values exactly."""
    import gguf
    from safetensors.numpy import save_file
    from transformers import GenerationConfig

    # It takes seconds, and is asked for three times.
    gguf.GGUFReader = functools.cache(gguf.GGUFReader)
    auto_tokenizer().from_pretrained(source, gguf_file=file).save_pretrained(target)
    config = auto_config().from_pretrained(source, gguf_file=file)
    config.name_or_path, config.architectures, config.dtype = name, ["LlamaForCausalLM"], "float32"
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in gguf.GGUFReader(str(source / file)).tensors:
        *block, kind, _ = tensor.name.split(".")  # blk.0.attn_q.weight, output_norm.weight
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if kind in heads:
            values = _halves(values, heads[kind])
        layer = f"model.layers.{block[1]}." if block else ""
        weights[f"{layer}{NAMES[kind]}.weight"] = values
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in transformers' order: it rotates the two halves of a head, where
    llama.cpp rotates neighbours (2i, 2i + 1)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
