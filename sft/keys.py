"""A key of the command line as a dataclass field: its default, its help line, its bounds.

    @dataclass
    class MyBuilder(ChatDatasetBuilder):
        path: str = key("???", "file of chats")              # ??? is a key that has to be given
        eval_size: int = key(0, "conversations to hold out", minimum=0)

Bounds: `minimum` (inclusive), `above` (exclusive), `below` (exclusive), `choices`.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import field
from typing import Any

Key = tuple[str, Any, Any]
"""Name, type and field of a key, as `dataclasses.make_dataclass` takes them."""


def key(default: Any, help: str, *, kw_only: bool = False, **bounds: Any) -> Any:
    """A dataclass field that the command line sets; `kw_only` as in `dataclasses.field`."""
    made: dict[str, Any] = {"metadata": {"help": help, **bounds}, "kw_only": kw_only}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), **made)
    return field(default=default, **made)


def group(kind: type, help: str) -> Any:
    """A field that holds the keys of a config group."""
    return field(default_factory=kind, metadata={"help": help})


def keys_of(kind: type) -> list[Key]:
    """Copies of the fields of a dataclass; one without a default is a key that has to be given."""
    hints = typing.get_type_hints(kind)
    return [(item.name, hints[item.name], _copy(item)) for item in dataclasses.fields(kind)]


def _copy(item: dataclasses.Field[Any]) -> Any:
    metadata = {"help": "", **item.metadata}
    if item.default_factory is not dataclasses.MISSING:
        return field(default_factory=item.default_factory, metadata=metadata)
    default = "???" if item.default is dataclasses.MISSING else item.default
    return field(default=default, metadata=metadata)
