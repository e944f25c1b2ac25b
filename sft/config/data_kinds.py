"""The keys of a dataset by its kind: on its own, as a part of a mixture, as a held-out set."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from sft.data.mixing.builder import Part
from sft.datasets import BUILDERS
from sft.errors import BadInput, not_one_of
from sft.keys import Key, key, keys_of
from sft.types import ChatDatasetBuilder, EvalSet

INNER: dict[str, type] = {"parts": Part, "eval_sets": EvalSet}
"""Keys under `dataset` that hold further data by name, and what each is said of beside its kind."""
SHARED = ("on_lost", "control_tokens")
"""Keys that such data has from the dataset around it, if it does not name them."""
NOT_INSIDE = {
    "parts": {"eval_sets"},
    "eval_sets": {
        *("eval_sets", "eval_size", "eval_split", "split_seed"),
        *("steps_per_epoch", "shuffle_buffer"),
    },
}
"""Keys of a kind that such data does not have."""


@functools.cache
def dataset_schema(kind: str) -> type:
    """The dataclass of the keys under `dataset` for a kind of data. Raises `BadInput`."""
    if kind == "custom":
        own = [item for item in keys_of(ChatDatasetBuilder) if item[0] == "eval_sets"]
    elif kind in BUILDERS:
        own = _keys_of_builder(kind)
    else:
        raise not_one_of("dataset.kind", kind, [*BUILDERS, "custom"])
    return _made(kind, own)


@functools.cache
def _inner(group: str, kind: str) -> type:
    """The same for data that has a name under `group`."""
    own = [] if kind == "custom" else _keys_of_builder(kind)
    own = [item for item in own if item[0] not in NOT_INSIDE[group]]
    beside = [item for item in keys_of(INNER[group]) if item[0] != "builder"]
    return _made(kind, [*beside, *own])


def inner_schema(group: str, entry: Mapping[str, Any], path: str) -> tuple[type, str]:
    """The dataclass of the keys of `entry`, which lies under `path`, and its kind.

    Data with a path and no kind is of files. Raises `BadInput`.
    """
    known = [kind for kind in (*BUILDERS, "custom") if kind != "mix"]
    kind = entry.get("kind") or ("file" if "path" in entry else None)
    if kind is None:
        raise BadInput(
            f"{path}.kind: is missing; set {path}.path=FILE, or {path}.kind to "
            f"one of {', '.join(known)}"
        )
    if kind not in known:
        raise not_one_of(f"{path}.kind", kind, known)
    return _inner(group, str(kind)), str(kind)


def _keys_of_builder(kind: str) -> list[Key]:
    return [item for item in keys_of(BUILDERS[kind]) if item[0] != "common_config"]


def _made(kind: str, own: list[Key]) -> type:
    fields: list[Key] = [("kind", str, key(kind, "kind of data"))]
    if kind == "custom":
        fields += [
            ("builder", str, key("???", "my_module:MyBuilder, a SupervisedDatasetBuilder")),
            ("args", dict[str, Any], key({}, "the builder's own fields")),
        ]
    return dataclasses.make_dataclass(f"Dataset_{kind}", [*fields, *own])
