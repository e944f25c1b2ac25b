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

SIZE = r"(\d+(?:\.\d+)?)([bBmMtT])(?![A-Za-z0-9])"
"""How a name writes a size: 8B, 0.5b, 135M."""


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
    >>> size_of("/disks/2T/models/Qwen3-8B"), size_of("models--Qwen--Qwen3-8B/snapshots/fd5aa5")
    (Size(total=8.0, active=8.0), Size(total=8.0, active=8.0))
    """
    return _size_in(_telling(model))


def family_of(model: str) -> str | None:
    """The family of a model by its name, None if it is none of `FAMILIES`."""
    return _family_in(_telling(model))


def _telling(model: str) -> str:
    """The part of a path that tells of the model: the last one, unless that says nothing.

    A folder above may be a disk's or a project's, so it has to read like a model: NAME-8B.
    """
    *folders, name = model.rstrip("/").split("/")
    for part in (name, *(f for f in reversed(folders) if re.search(rf"[A-Za-z].*-{SIZE}", f))):
        if _size_in(part) or _family_in(part):
            return part
    return name


def _size_in(name: str) -> Size | None:
    found = re.search(rf"(?<![A-Za-z0-9.]){SIZE}", name)
    for known, sizes in FURTHER_SIZES.items():
        # A name may tell another size: that of a smaller model of the same kind.
        if known in name.lower() and (not found or found[0].lower() in known):
            return Size(*sizes)
    if not found or not float(found[1]):
        return None
    total = float(found[1]) * {"m": 1e-3, "b": 1.0, "t": 1e3}[found[2].lower()]
    active = re.search(r"-[aA](\d+(?:\.\d+)?)[bB](?![A-Za-z0-9])", name)
    return Size(total, float(active[1]) if active and float(active[1]) else total)


def _family_in(name: str) -> str | None:
    lowered = name.lower()
    return next((family for family, part in FAMILIES.items() if part in lowered), None)
