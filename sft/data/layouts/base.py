"""What a layout is, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sft.errors import BadInput

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The columns that a row has to have, and how it becomes messages."""

    columns: frozenset[str]
    """Their names; a row may have others beside them."""
    convert: Callable[[Row, str], Any]
    """The messages of a row that has `columns`; its second argument is the row's place, for error
    messages. What it returns is checked afterwards (see `check_conversation`), so it hands on
    what is no list of messages as it is. Raises `BadInput` if a column holds something else."""


def text(row: Row, column: str, where: str) -> str:
    """The text in a column. Raises `BadInput` if it holds something else."""
    value = row[column]
    if not isinstance(value, str):
        raise BadInput(f"{where}: '{column}' is {type(value).__name__}; expected text")
    return value


def tidy(messages: Any) -> Any:
    """Without the nulls that a table puts for a field that a message does not have."""
    if not isinstance(messages, list):
        return messages
    return [
        {
            key: value
            for key, value in message.items()
            if value is not None or key in ("role", "content")
        }
        if isinstance(message, dict)
        else message
        for message in messages
    ]
