"""The saved config, and the one way from settings to `train.Config` and back."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from sft.config import data, evaluators
from sft.config.checking import check, schema_of
from sft.config.schema import KINDS, VERSION, Settings
from sft.config.secrets import without_secrets
from sft.config.training import Config
from sft.data.import_path import NOT_IMPORTABLE
from sft.errors import BadInput
from sft.models.names import of_hub
from sft.record.metrics import known_direction
from sft.types import ChatDatasetBuilderCommonConfig, SupervisedDatasetBuilder

Chosen = TypeVar("Chosen", Settings, Config)
NOT_SAVED = ("run_dir", "cost")
"""Keys that say where a run is and what is asked before it, not what it is."""


def to_saved(settings: Settings) -> dict[str, Any]:
    """The saved config: plain nested values and the schema's version, without secrets."""
    values = dataclasses.asdict(directed(settings))
    saved = {"version": VERSION} | {k: v for k, v in values.items() if k not in NOT_SAVED}
    return without_secrets(saved)


def from_saved(saved: dict[str, Any], source: str) -> Settings:
    """`Settings` from a saved config. Raises `BadInput`, naming `source`."""
    saved = _renamed(saved)
    version = saved.pop("version", None)
    if version != VERSION:
        known = {item.name for item in dataclasses.fields(Settings)}
        strange = sorted(set(saved) - known)
        gone = sorted(known - set(saved) - set(NOT_SAVED))
        changed = [f"unknown here: {', '.join(strange)}"] if strange else []
        changed += [f"missing there: {', '.join(gone)}"] if gone else []
        raise BadInput(
            f"{source}: has version {version} of the config, this is version {VERSION}"
            + (f" ({'; '.join(changed)})" if changed else "")
        )
    try:
        return check(saved)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None


def _renamed(saved: dict[str, Any]) -> dict[str, Any]:
    """A copy of a saved config, with a price as it was said before there was one of each kind."""
    saved, old = dict(saved), "price_per_million_tokens"
    if isinstance(model := saved.get("model"), dict) and old in model:
        saved["model"] = {key: value for key, value in model.items() if key != old}
        saved.setdefault("prices", {"train": model[old]})
    return saved


def common_config(settings: Settings) -> ChatDatasetBuilderCommonConfig:
    """What `settings` say of all chat data."""
    return ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=settings.model.tokenizer or of_hub(settings.model.name),
        renderer_name=settings.model.renderer,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        train_on_what=settings.train_on_what,
        reduction=settings.reduction,
        chat_template_kwargs=dict(settings.model.chat_template_kwargs),
        date=settings.date,
        seed=settings.seed,
    )


def dataset_builder(settings: Settings) -> SupervisedDatasetBuilder:
    """The dataset builder that `settings` name. Raises `BadInput`."""
    values = dataclasses.asdict(settings.dataset)
    return data.to_builder(values, common_config(settings), "dataset")


def is_reproducible(saved: dict[str, Any]) -> bool:
    """Whether all builders that a saved config names can be imported again."""
    named = [*data.named_builders(saved), *evaluators.named_builders(saved)]
    return not any(path.startswith(NOT_IMPORTABLE) for path in named)


def to_train(settings: Settings, log_path: str, base_url: str | None = None) -> Config:
    """The run that `settings` describe, as `train.main` takes it. Raises `BadInput`."""
    settings = directed(settings)
    values: dict[str, Any] = dict(evaluators.of_settings(settings, common_config(settings)))
    for item in dataclasses.fields(Config):
        if "key" in item.metadata:
            found = _read(settings, item.metadata["key"])
            if found is not ABSENT:
                values[item.name] = found
    return Config(
        log_path=log_path,
        dataset_builder=dataset_builder(settings),
        base_url=base_url if base_url is not None else settings.service.base_url,
        **values,
    )


def from_train(config: Config) -> dict[str, Any]:
    """The saved config of a run that was started from Python: `to_train` read backwards.

    A builder that is not one of the registered ones is named by its import path.
    """
    saved: dict[str, Any] = {
        "dataset": data.to_saved(config.dataset_builder),
        "service": {"kind": "custom" if config.base_url else "tinker", "base_url": config.base_url},
        "evaluators": evaluators.to_saved(config),
    }
    for item in dataclasses.fields(Config):
        if "key" in item.metadata:
            _write(saved, item.metadata["key"], getattr(config, item.name))
    for name in KINDS:
        takes = {item.name for item in dataclasses.fields(schema_of(name, saved[name]["kind"]))}
        saved[name] = {key: value for key, value in saved[name].items() if key in takes}
    if common := getattr(config.dataset_builder, "common_config", None):
        for name in ("batch_size", "max_length", "train_on_what", "reduction", "date"):
            saved[name] = getattr(common, name)
        saved["model"] |= {
            "tokenizer": common.model_name_for_tokenizer,
            "renderer": common.renderer_name,
            "chat_template_kwargs": common.chat_template_kwargs,
        }
    return to_saved(check(saved))


def completed(saved: dict[str, Any], source: str) -> dict[str, Any]:
    """A saved config with the keys that have come since it was written. Raises `BadInput`.

    One of another version, or without any, stays as it is.
    """
    return to_saved(from_saved(saved, source)) if saved.get("version") == VERSION else saved


def directed(chosen: Chosen) -> Chosen:
    """`chosen`, with the direction that its metric's name tells if it has none."""
    direction = chosen.direction or known_direction(chosen.metric)
    return dataclasses.replace(chosen, direction=direction)


ABSENT = object()


def _read(settings: Settings, key: str) -> Any:
    """The value of a dotted key; `GROUP.*`: those of the group that no field of `Config` is."""
    group, _, name = key.rpartition(".")
    node = getattr(settings, group) if group else settings
    if name != "*":
        return getattr(node, name, ABSENT)
    named = {item.metadata.get("key") for item in dataclasses.fields(Config)}
    values = dataclasses.asdict(node)
    return {name: value for name, value in values.items() if f"{group}.{name}" not in named}


def _write(saved: dict[str, Any], key: str, value: Any) -> None:
    group, _, name = key.rpartition(".")
    node = saved.setdefault(group, {}) if group else saved
    node |= value if name == "*" else {name: value}
