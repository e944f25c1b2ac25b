"""A LoRA adapter merged into its base model, as a folder that any server loads.

W' = W + (alpha / r) B A for every adapted matrix (Hu et al. 2021, arXiv:2106.09685, section 4.1).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sft.errors import BadInput
from sft.models.importing import auto_model, auto_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "base_model.model."


def merge_into_base(base: str, adapter: Path, target: Path) -> None:
    """Write the model `base` (a folder or a Hub id) with the PEFT `adapter` merged in to `target`.

    The sum is formed in float32 and kept in the base model's own type. If the output matrix is
    tied to the embedding and adapted, it is untied first: the adapter changed the output alone.
    Raises `BadInput` if the base cannot be loaded, or if base and adapter do not fit.
    """
    import torch
    from safetensors.torch import load_file

    try:
        model = auto_model().from_pretrained(base, dtype="auto")
        tokenizer = auto_tokenizer().from_pretrained(base)
    except (OSError, ValueError) as error:
        raise BadInput(f"{base}: cannot be loaded: {str(error).splitlines()[0]}") from None
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    weights = load_file(adapter / "adapter_model.safetensors")
    if any(".lm_head." in name for name in weights) and model.config.tie_word_embeddings:
        _untie(model)
    matrices = dict(model.named_parameters(remove_duplicate=False))
    scale = config["lora_alpha"] / config["r"]
    with torch.no_grad():
        for name, a in weights.items():
            if ".lora_A." not in name:
                continue
            b = weights[name.replace(".lora_A.", ".lora_B.")]
            module = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
            matrix = matrices.get(module)
            if matrix is None or matrix.shape != (b.shape[0], a.shape[1]):
                raise BadInput(f"{base}: has no matrix {module} that the adapter fits")
            matrix.copy_((matrix.float() + scale * (b.float() @ a.float())).to(matrix.dtype))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _untie(model: PreTrainedModel) -> None:
    import torch

    output = model.get_output_embeddings()
    output.weight = torch.nn.Parameter(output.weight.detach().clone())
    model.config.tie_word_embeddings = False
