"""From the rows of one source to conversations, and what there is to say of them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sft.data.canonical import BESIDE, FIELDS, conversation
from sft.data.layouts import LAYOUTS, columns
from sft.data.layouts.base import is_message
from sft.data.other_data import WATCHED, refuse_media, refuse_pairs, refuse_preferences
from sft.errors import BadInput
from sft.rendering.conversations import Conversation
from sft.rendering.report import Report

Numbered = tuple[int, Conversation | BadInput]

BAD_LINES = "not a conversation"
"""A kind of rows that are left out; see also `nothing_in`."""


def nothing_in(conversation: Conversation) -> str:
    """What a row that holds nothing has none of, which is the kind of it; "" of another row."""
    if conversation.messages or conversation.text:
        return ""
    return "no message" if conversation.text is None else "no text"


@dataclass
class Reading:
    """Rows of one layout as conversations.

    The layout `auto` is that of the first row. Names of columns that are not read, and of fields
    of messages that only a chat template could read, are gathered on the way.
    """

    layout: str = "auto"
    filled: bool = False
    """Whether the rows are of a table whose columns have a type: see `canonical.conversation`."""
    cells: bool = False
    """Whether they are of a CSV file."""
    unused: dict[str, None] = field(default_factory=dict)
    fields: dict[str, None] = field(default_factory=dict)
    _renamed: dict[tuple[Any, ...], dict[str, str]] = field(default_factory=dict)
    """By the columns of a row, which of them the layout knows by another name."""

    def conversation(self, row: Any, where: str) -> Conversation:
        """The conversation of a row. Raises `BadInput` that begins with `where`."""
        if isinstance(row, list) and row and all(map(is_message, row)):
            row = {"messages": row}
        if not isinstance(row, dict):
            raise BadInput(f"{where}: expected a JSON object, found {type(row).__name__}")
        if self.layout == "auto":
            self.layout = columns.detect(row, where, cells=self.cells)
        shape = tuple(row)
        if (renamed := self._renamed.get(shape)) is None:
            renamed = self._look(shape, where)
        layout = LAYOUTS[self.layout]
        named = row | {name: row[column] for name, column in renamed.items()} if renamed else row
        if not WATCHED.isdisjoint(shape):
            refuse_media(row, where)
            if not layout.raw:
                refuse_preferences(row, where, pair=self.layout == "prompt_completion")
        found = layout.convert(named, where)
        if layout.raw:
            return Conversation([], text=found)
        made = conversation(found, row, where, filled=self.filled)
        if made.messages and made.messages[-1]["role"] != "assistant" and "rejected" in row:
            refuse_pairs(shape, where)  # which may have the chosen chat in its messages, too
        for message in made.messages:
            if len(message) > 2 and not message.keys() <= FIELDS:
                self.fields |= dict.fromkeys(sorted(map(str, message.keys() - FIELDS)))
        return made

    def wanted(self, present: list[str], where: str) -> list[str]:
        """The columns of a table that are read; the others need not be. Raises `BadInput`."""
        if self.layout == "auto":
            self.layout = columns.detect(present, where)
        self._look(tuple(present), where)
        return [name for name in present if name not in self.unused or name in WATCHED]

    def _look(self, shape: tuple[Any, ...], where: str) -> dict[str, str]:
        """Which columns have other names than the layout's. Raises `BadInput` if one is missing."""
        names = columns.names(shape, self.layout, where)
        read = {*names.values(), *(() if LAYOUTS[self.layout].raw else BESIDE)}
        self.unused |= dict.fromkeys(str(name) for name in shape if name not in read)
        renamed = {name: column for name, column in names.items() if name != column}
        self._renamed[shape] = renamed
        return renamed


@dataclass
class Reader:
    """The conversations of one source: what `conversations` and `report` of a `Source` do.

    Args:
        rows: each row with its number, or what is wrong with it.
        where: the place of a row, for messages.
        skip: leave out what is no conversation, and count it, in place of refusing it.
    """

    rows: Iterable[tuple[int, Any]]
    where: Callable[[int], str]
    reading: Reading
    skip: bool = False
    report: Report = field(default_factory=Report)

    def __iter__(self) -> Iterator[Numbered]:
        """Every row that is to be trained on; one that is wrong as the `BadInput` that says so."""
        for number, found in self.every():
            if isinstance(found, BadInput):
                if self.skip:
                    self.report.leave_out(BAD_LINES, str(found))
                    continue
            elif nothing := nothing_in(found):
                self.report.leave_out(nothing, f"{self.where(number)}: holds {nothing}")
                continue
            yield number, found
        seen = Report(unused=list(self.reading.unused), fields=list(self.reading.fields))
        self.report.add(seen)

    def every(self) -> Iterator[Numbered]:
        """All rows, also those that iterating leaves out."""
        reading, where = self.reading, self.where
        for number, row in self.rows:
            if isinstance(row, BadInput):
                yield number, row
                continue
            try:
                found: Conversation | BadInput = reading.conversation(row, where(number))
            except BadInput as error:
                found = error
            yield number, found
