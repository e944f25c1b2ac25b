"""Data in the config: dataset builders of a kind or of the user's own, data within data, and the
places that all of it is read from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.config import evaluators
from sft.config.checking import check_fields
from sft.config.data_kinds import INNER, NOT_INSIDE
from sft.data.files.inventory import take
from sft.data.import_path import load_builder, own_fields
from sft.data.import_path import saved as saved_builder
from sft.datasets import BUILDERS, custom_builder
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
    made = load_builder(path, values["builder"], SupervisedDatasetBuilder)
    args = check_fields(made, values["args"], f"{path}.args.")
    if values.get("eval_sets"):
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
    inner = {
        group: {name: _inner_to_saved(group, entry) for name, entry in entries.items()}
        for group in INNER
        if isinstance(entries := getattr(builder, group, None), Mapping)
    }
    kinds: dict[type, str] = {known: kind for kind, known in BUILDERS.items()}
    if kind := kinds.get(type(builder)):
        return {"kind": kind, **own_fields(builder, inner), **inner}
    return {"kind": "custom", **saved_builder(builder, inner), **inner}


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


@dataclasses.dataclass(frozen=True)
class Place:
    """A path in a saved config at which a run reads data."""

    name: str
    """What the run's facts call it: `dataset`, `dataset.parts.NAME`, `evaluators.args.NAME` …"""
    key: str
    path: str
    whole: bool
    """The data is read whole, however large it is."""


def places(saved: Mapping[str, Any]) -> Iterator[Place]:
    """Where a saved config's data lies: that of the dataset, and what evaluators are given.

    An evaluator's arguments are its own: each text may name a file.
    """
    for name, values in named(saved):
        path = values.get("path")
        if isinstance(path, str) and path:
            yield Place(name, f"{name}.path", path, values.get("kind") != "hf_stream")
    for evaluator, _, args in evaluators.named(saved):
        for name, value in args.items():
            if isinstance(value, str) and value:
                yield Place(f"{evaluator}.args.{name}", f"{evaluator}.args.{name}", value, False)


def inventory(saved: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a saved config's data is on this machine, by name; without what is of the Hub or of
    a builder of the user's own. Raises `BadInput`."""
    found = {}
    for place in places(saved):
        if place.name.startswith("evaluators") and not _is_file(place.path):
            continue  # any text, which may be the name of a folder
        if one := take(place.path, whole=place.whole):
            found[place.name] = dataclasses.asdict(one)
    return found


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # no path at all
        return False


def named_builders(saved: Mapping[str, Any]) -> list[str]:
    """The import paths of builders of data that a saved config names."""
    return [str(values["builder"]) for _, values in named(saved) if values.get("builder")]
