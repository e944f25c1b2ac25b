"""Unpacks the demo model: what `demo` runs, as `python -m sft.models.demo_weights`.

In a process of its own, for a command's own leaves PyTorch out (see `without_torch`).
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from sft.models.importing import auto_model, auto_tokenizer


def unpack(source: Path, file: str, target: Path, name: str) -> None:
    """Write the model called `name`, its tokenizer and its chat template from a GGUF `file`."""
    import gguf
    import torch

    for slow in ("GGUFReader", "get_tensor_name_map"):
        # transformers asks for the same again: three times for seconds, 400 times for 20 ms.
        setattr(gguf, slow, functools.cache(getattr(gguf, slow)))
    model = auto_model()
    quantised = model.from_pretrained(source, gguf_file=file)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = name
    # A model that came from a GGUF file refuses save_pretrained; a fresh one with its weights
    # does not. float32 keeps the dequantised values exactly.
    fresh = model.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(quantised.state_dict())
    fresh.generation_config = quantised.generation_config
    fresh.save_pretrained(target)
    auto_tokenizer().from_pretrained(source, gguf_file=file).save_pretrained(target)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
