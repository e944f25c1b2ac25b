"""A key of the command line as a dataclass field: its default, its help line, its bounds.

    @dataclass
    class MyBuilder(ChatDatasetBuilder):
        path: str = key("???", "file of chats")              # ??? is a key that has to be given
        eval_size: int = key(0, "conversations to hold out", minimum=0)

Bounds: `minimum` (inclusive), `above` (exclusive), `below` (exclusive), `choices`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any


def key(default: Any, help: str, **bounds: Any) -> Any:
    """A dataclass field that the command line sets."""
    metadata = {"help": help, **bounds}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: type, help: str) -> Any:
    """A field that holds the keys of a config group."""
    return field(default_factory=kind, metadata={"help": help})
