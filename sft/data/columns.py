"""The layout of a row of data, by the names of its columns, and the row as chat messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sft.data.layouts import LAYOUTS
from sft.errors import BadInput
from sft.rendering.base import Messages


def detect(columns: Iterable[str], where: str) -> str:
    """The layout that fits the names of the columns. Raises `BadInput`, naming those found."""
    present = set(columns)
    for name, layout in LAYOUTS.items():
        if layout.columns <= present:
            return name
    expected = [" and ".join(map(repr, sorted(layout.columns))) for layout in LAYOUTS.values()]
    raise BadInput(f"{where}: has the columns {_names(present)}; expected {', or '.join(expected)}")


def require(columns: Iterable[str], layout: str, where: str) -> None:
    """Check that `layout` has its columns. Raises `BadInput`, naming those that are there."""
    present = set(columns)
    if missing := sorted(LAYOUTS[layout].columns - present):
        raise BadInput(
            f"{where}: has no '{missing[0]}' (layout {layout}); it has {_names(present)}"
        )


def to_messages(row: Any, layout: str, where: str) -> Messages:
    """The messages in `row`. They are not checked: see `check_conversation`.

    Raises `BadInput` if a column of the layout is missing or holds something else.
    """
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(row).__name__}")
    if not LAYOUTS[layout].columns <= row.keys():
        require(row, layout, where)
    messages: Messages = LAYOUTS[layout].convert(row, where)
    return messages


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(map(str, columns))) or "none"
