"""What a layout is, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sft.data.canonical import CALLS, known_role
from sft.data.json_text import from_text, not_text, plain
from sft.errors import BadInput

Row = dict[str, Any]
Names = Mapping[str, str]
"""The name in the file of each column of a layout, by the name that the layout knows it by."""


@dataclass(frozen=True)
class Layout:
    """The columns that a row has to have, and how it becomes messages."""

    columns: frozenset[str]
    """Their names; a row may have others beside them."""
    convert: Callable[[Row, str], Any]
    """The messages of a row that has `columns`; its second argument is the row's place, for error
    messages. What it returns is checked afterwards (see `sft.data.canonical`), so it hands on
    what is no list of messages as it is. Raises `BadInput` if a column holds something else."""
    beside: frozenset[str] = frozenset()
    """Further columns that `convert` reads if they are there. Those for a system text, for tools
    and for template values are read beside the messages of every layout."""
    spellings: tuple[Names, ...] = ()
    """Other names that people give to some of the columns, one mapping for each fashion."""
    raw: bool = False
    """Whether `convert` gives raw text in place of messages."""

    def names(self, present: Iterable[str]) -> Names | None:
        """What its columns are called in a file with the columns `present`; None: not its own."""
        there = set(present)
        best: Names | None = None
        for spelling in ({}, *self.spellings):
            wanted = {name: spelling.get(name, name) for name in self.columns | self.beside}
            if {wanted[name] for name in self.columns} <= there:
                found = {name: column for name, column in wanted.items() if column in there}
                if best is None or len(found) > len(best):
                    best = found
        return best


def text(row: Row, column: str, where: str) -> str:
    """The text in a column. Raises `BadInput` if it holds something else."""
    value = row[column]
    if isinstance(value, bytes):  # of a table
        value = plain(value, f"'{column}'", where)
    if not isinstance(value, str):
        raise BadInput(not_text(value, column, where))
    return value


def messages_in(row: Row, column: str, where: str) -> Any:
    """What a column of messages holds, read if it is JSON text. Raises `BadInput`."""
    value = row[column]
    if isinstance(value, str):
        if value.lstrip()[:1] not in ("[", "{"):
            raise BadInput(f"{where}: '{column}' is text; expected a list of messages")
        return from_text(value, f"'{column}'", where, python=True)
    return value


def is_message(value: Any) -> bool:
    """Whether a value is a message of a chat, by its speaker."""
    if not isinstance(value, dict) or value.keys().isdisjoint({"content", "value", "tool_calls"}):
        return False
    speaker = value.get("role", value.get("from"))
    return known_role(speaker) is not None or speaker in CALLS
