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


def key(default: Any, help: str, *, kw_only: bool = False, **bounds: Any) -> Any:
    """A dataclass field that the command line sets; `kw_only` as in `dataclasses.field`."""
    made: dict[str, Any] = {"metadata": {"help": help, **bounds}, "kw_only": kw_only}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), **made)
    return field(default=default, **made)


def group(kind: type, help: str) -> Any:
    """A field that holds the keys of a config group."""
    return field(default_factory=kind, metadata={"help": help})
