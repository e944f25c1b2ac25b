"""Dataset builders in the config: those of a kind, of the user's own, and data within data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from sft.config.data_kinds import INNER, NOT_INSIDE
from sft.config.evaluators import is_plain
from sft.data.import_path import NOT_IMPORTABLE, load_class
from sft.datasets import BUILDERS, custom_builder, import_path
from sft.errors import BadInput
from sft.types import ChatDatasetBuilder, ChatDatasetBuilderCommonConfig, SupervisedDatasetBuilder


def to_builder(
    values: Mapping[str, Any], common: ChatDatasetBuilderCommonConfig, path: str
) -> SupervisedDatasetBuilder:
    """The builder that the keys `values` under `path` name. Raises `BadInput`."""
    values = dict(values)
    kind = values.pop("kind")
    for group in INNER.keys() & values.keys():
        values[group] = {
            name: _inner(group, entry, common, f"{path}.{group}.{name}")
            for name, entry in values[group].items()
        }
    if kind != "custom":
        return BUILDERS[kind](common_config=common, **values)
    args = values["args"]
    if values.get("eval_sets"):
        made = load_class(path, values["builder"], SupervisedDatasetBuilder)
        if not issubclass(made, ChatDatasetBuilder):
            raise BadInput(
                f"{path}.eval_sets: {values['builder']} is no subclass of "
                "sft.types.ChatDatasetBuilder, which alone takes further held-out sets; leave them "
                "out, or make it one"
            )
        args = {**args, "eval_sets": values["eval_sets"]}
    return custom_builder(values["builder"], args, common, path)


def _inner(
    group: str, entry: Mapping[str, Any], common: ChatDatasetBuilderCommonConfig, path: str
) -> Any:
    """A part of a mixture, or a held-out set."""
    beside = {item.name for item in dataclasses.fields(INNER[group])} - {"builder"}
    own = {key: value for key, value in entry.items() if key not in beside}
    said = {key: value for key, value in entry.items() if key in beside}
    return INNER[group](builder=to_builder(own, common, path), **said)


def to_saved(builder: SupervisedDatasetBuilder) -> dict[str, Any]:
    """The keys under `dataset` that make `builder` again.

    One that is not registered is named by its import path.
    """
    values = {
        item.name: getattr(builder, item.name)
        for item in dataclasses.fields(builder)
        if item.name != "common_config"
    }
    inner = {
        group: {name: _inner_to_saved(group, entry) for name, entry in values.pop(group).items()}
        for group in INNER.keys() & values.keys()
    }
    kinds: dict[type, str] = {known: kind for kind, known in BUILDERS.items()}
    if kind := kinds.get(type(builder)):
        return {"kind": kind, **values, **inner}
    path = import_path(type(builder))
    if not is_plain(values):
        return {"kind": "custom", "builder": NOT_IMPORTABLE + path, "args": {}}
    return {"kind": "custom", "builder": path, "args": values, **inner}


def _inner_to_saved(group: str, entry: Any) -> dict[str, Any]:
    said = {item.name: getattr(entry, item.name) for item in dataclasses.fields(entry)}
    saved = to_saved(said.pop("builder"))
    return {key: value for key, value in saved.items() if key not in NOT_INSIDE[group]} | said


def named(saved: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All data that a saved config names, with its key: the whole, its parts, held-out sets."""
    dataset = saved.get("dataset")
    if not isinstance(dataset, Mapping):
        return
    yield "dataset", dataset
    for group in INNER:
        entries = dataset.get(group)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(entry, Mapping):
                yield f"dataset.{group}.{name}", entry


def named_builders(saved: Mapping[str, Any]) -> list[str]:
    """The import paths of builders of data that a saved config names."""
    return [str(values["builder"]) for _, values in named(saved) if values.get("builder")]
