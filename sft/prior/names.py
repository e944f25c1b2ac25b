"""What a model's name tells of it: its size, and the family that it comes from."""

import re
from dataclasses import dataclass

FAMILIES = {
    "Qwen": "qwen",
    "Llama": "llama",
    "DeepSeek": "deepseek",
    "Kimi": "kimi",
    "gpt-oss": "gpt-oss",
    "Nemotron": "nemotron",
}
"""A family of models, and the part of a name that tells it: all models that one maker trains in
one way. Any other model is like no published one more than another."""

FURTHER_SIZES = {
    "deepseek-v3": (671.0, 37.0),  # arXiv:2412.19437
    "kimi-k2": (1000.0, 32.0),  # arXiv:2507.20534
    "gpt-oss-120b": (117.0, 5.1),  # arXiv:2508.10925
    "gpt-oss-20b": (21.0, 3.6),
}
"""Billions of parameters, in all and active for a token, of models whose names do not say."""


@dataclass(frozen=True)
class Size:
    """Billions of parameters: in all, and active for a token (fewer in a mixture of experts)."""

    total: float
    active: float

    def __str__(self) -> str:
        total = f"{self.total:g}B" if self.total >= 1 else f"{1000 * self.total:g}M"
        return f"{total} parameters" + (
            f", {self.active:g}B active" if self.active != self.total else ""
        )


def size_of(model: str) -> Size | None:
    """The size that a model's name tells; None if it does not.

    >>> size_of("Qwen/Qwen3-30B-A3B"), size_of("SmolLM2-135M-Instruct"), size_of("my-model")
    (Size(total=30.0, active=3.0), Size(total=0.135, active=0.135), None)
    """
    for name, sizes in FURTHER_SIZES.items():
        if name in model.lower():
            return Size(*sizes)
    found = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmMtT])(?![A-Za-z0-9])", model)
    if not found:
        return None
    total = float(found[1]) * {"m": 1e-3, "b": 1.0, "t": 1e3}[found[2].lower()]
    active = re.search(r"-[aA](\d+(?:\.\d+)?)[bB](?![A-Za-z0-9])", model)
    return Size(total, float(active[1]) if active else total)


def family_of(model: str) -> str | None:
    """The family of a model by its name, None if it is none of `FAMILIES`."""
    lowered = model.lower()
    return next((family for family, part in FAMILIES.items() if part in lowered), None)
