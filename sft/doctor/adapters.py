"""What an adapter's own files say of it."""

from __future__ import annotations

import json
from pathlib import Path

from sft.service.downloads import FILES

MOST_NAMED = 8


def describe(folder: Path) -> str:
    """Rank, alpha, modules and trained parameters of the PEFT adapter in `folder`."""
    from safetensors import safe_open

    config = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
    modules: dict[str, None] = {}
    parameters = 0
    with safe_open(folder / FILES[1], "np") as file:
        for name in file.keys():  # noqa: SIM118
            modules[name.partition(".lora_")[0].rpartition(".")[2]] = None
            count = 1
            for size in file.get_slice(name).get_shape():
                count *= size
            parameters += count
    named = ", ".join(list(modules)[:MOST_NAMED])
    return (
        f"rank {config.get('r')}, alpha {config.get('lora_alpha'):g}, {parameters:,} parameters "
        f"in {named}"
    )
