"""How many parameters an adapter trains."""

from __future__ import annotations

from sft.models.importing import auto_config


def trained_parameters(
    model: str, rank: int, train_attn: bool, train_mlp: bool, train_unembed: bool
) -> int | None:
    """Parameters of a LoRA adapter of `rank` on a Llama- or Qwen3-style model.

    Each adapted projection from m to n features has rank x (m + n) (Hu et al. 2021, section 4.1).
    `model` is a Hub id or folder. None if its config cannot be read or is of another style.
    """
    try:
        config = auto_config().from_pretrained(model)
    except (OSError, ValueError):
        return None
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    if not all(hasattr(config, name) for name in names) or hasattr(config, "num_experts"):
        return None
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    attention = heads * head
    key_value = (getattr(config, "num_key_value_heads", None) or heads) * head
    features = 0
    if train_attn:
        features += 2 * (hidden + attention) + 2 * (hidden + key_value)
    if train_mlp:
        features += 3 * (hidden + config.intermediate_size)
    total = config.num_hidden_layers * features
    if train_unembed:
        total += hidden + config.vocab_size
    return rank * total
