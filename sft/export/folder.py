"""The exported folder: the weights in one of three forms, tokenizer, chat template, card.

It is made in a scratch folder beside its place and appears there whole, by one rename.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sft.config.saved import common_config, from_saved
from sft.errors import BadInput
from sft.export import weights
from sft.export.card import card
from sft.export.loading import GGUF_FILE, Exported
from sft.models.gguf_file import check_architecture, write_gguf
from sft.models.merge import merge_into_base
from sft.models.names import hub_id, model_folder
from sft.past.choosing import choose, home
from sft.past.find import Found, find
from sft.past.trust import saved_config
from sft.rendering.templates import TemplateRenderer
from sft.types import ChatDatasetBuilder

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.record.checkpoints import CheckpointRecord

FORMS = ("adapter", "merged", "gguf")


@dataclass
class Chosen:
    """A checkpoint of a run, and the form in which it is wanted."""

    found: Found
    settings: Settings
    record: CheckpointRecord
    form: str

    @classmethod
    def of(
        cls, word: str, checkpoint: str | None, form: str, uri: str | None, *, trust: bool
    ) -> Chosen:
        """Raises `BadInput`."""
        found = find(word, uri)
        settings = from_saved(saved_config(found, trust), found.source)
        return cls(found, settings, choose(found, checkpoint), form)

    @property
    def base(self) -> str:
        """What the base model is loaded from: a folder on this machine, or its name on the Hub."""
        return model_folder(self.settings.model.name) or self.settings.model.name


def write(chosen: Chosen, target: Path) -> tuple[Exported, int]:
    """Export to the new or empty folder `target`; how to load it, and the number of tensors of
    the adapter. Raises `BadInput`."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target}: is there already; name a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target.parent}: cannot be made: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as scratch:
        result = Path(scratch) / "result"
        result.mkdir()
        exported, tensors = fill(chosen, result, str(target), chosen.base)
        if target.exists():
            target.rmdir()
        result.rename(target)
    return exported, tensors


def publishable(chosen: Chosen, target: Path, name: str) -> Exported:
    """Fill the folder `target` with what can be shown to others as `name`: the base model has its
    name on the Hub, and no path of this machine is named. Raises `BadInput`."""
    base = hub_id(chosen.settings.model.name) or Path(chosen.base).name
    return fill(chosen, target, name, base)[0]


def fill(chosen: Chosen, target: Path, path: str, base: str) -> tuple[Exported, int]:
    """Write all files into the empty folder `target`, for readers who find it at `path` and the
    base model at `base`. Raises `BadInput`."""
    settings, form = chosen.settings, chosen.form
    if form == "gguf":
        check_architecture(chosen.base)
    renderer = ChatDatasetBuilder(common_config=common_config(settings)).renderer
    assert isinstance(renderer, TemplateRenderer)
    stops = renderer.stop_sequences()
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as scratch:
        adapter = target if form == "adapter" else Path(scratch)
        model = Path(scratch) / "model" if form == "gguf" else target
        tensors = weights.bring(settings, home(chosen.found, settings), chosen.record, adapter)
        _name_base(adapter, base)
        exported = Exported(
            form, path, base, settings.lora.rank, weights.trains_lm_head(adapter), stops
        )
        if form != "adapter":
            merge_into_base(chosen.base, adapter, model)
            _stop_as_trained(model, stops)
            _write_modelfile(target, form, _as_text(renderer, stops))
        _save_tokenizer(renderer, model)
        if form == "gguf":
            write_gguf(model, target / GGUF_FILE)
    text = card(chosen.found, settings, chosen.record, exported)
    (target / "README.md").write_text(text, encoding="utf-8")
    _ordinary_modes(target)
    return exported, tensors


def _name_base(adapter: Path, base: str) -> None:
    file = adapter / weights.CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"base_model_name_or_path": base}, indent=2) + "\n")


def _stop_as_trained(folder: Path, stops: list[int] | list[str]) -> None:
    """Have the model in `folder` end its answers where they were trained to end."""
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kind = "eos_token_id" if all(isinstance(stop, int) for stop in stops) else "stop_strings"
    file.write_text(json.dumps(config | {kind: stops}, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(renderer: TemplateRenderer, folder: Path) -> None:
    """The run's tokenizer, with the chat template and its arguments as the run was trained."""
    import copy

    tokenizer = copy.copy(renderer.tokenizer)
    tokenizer.chat_template = renderer.template.alone
    tokenizer.save_pretrained(folder)


def _as_text(renderer: TemplateRenderer, stops: list[int] | list[str]) -> list[str]:
    return [
        stop if isinstance(stop, str) else str(renderer.tokenizer.convert_ids_to_tokens(stop))
        for stop in stops
    ]


def _write_modelfile(folder: Path, form: str, stops: list[str]) -> None:
    """Ollama's own file, beside the weights: what they are, and where an answer ends."""
    source = f"./{GGUF_FILE}" if form == "gguf" else "."
    lines = [f"FROM {source}", *(f"PARAMETER stop {json.dumps(stop)}" for stop in stops)]
    (folder / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _ordinary_modes(folder: Path) -> None:
    """Give every file the mode of one that is made in the usual way: some writers leave 0600."""
    made = folder / ".mode"
    made.touch()
    mode = made.stat().st_mode & 0o777
    made.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
