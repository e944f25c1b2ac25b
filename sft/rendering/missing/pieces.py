"""The pieces of a conversation that somebody wrote, how templates spell them, and in which order.

Pieces are the words of a message, its reasoning, the names of the tools that it calls, and every
key and value of their arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Groups = list[list[Any]]
"""Pieces of a message in their order; those of one group may stand in any."""


def call_groups(message: dict[str, Any]) -> Groups:
    """The pieces of each call of a message."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return [[each["name"], *leaves(each.get("arguments") or {})] for each in functions]


def orders(message: dict[str, Any], thoughts: bool) -> list[Groups]:
    """The orders in which a template may write a message: its words before its calls or behind.

    With `thoughts` its reasoning comes first.
    """
    thought = message.get("reasoning_content") if thoughts else None
    first, words = [[thought]] if thought else [], [[message["content"]]]
    if not (calls := call_groups(message)):
        return [[*first, *words]]
    return [[*first, *words, *calls], [*first, *calls, *words]]


def in_order(messages: Iterable[list[Groups]], text: str) -> bool:
    """Whether every piece of messages, given by their `orders`, has a place of its own in `text`.

    One behind another. So a piece that is missing is not found in what another one says: this one
    would then be missing further on.
    """
    listed = list(messages)
    return _in_order(listed, text, flat=False) or _in_order(listed, _flat(text), flat=True)


def _in_order(messages: Sequence[list[Groups]], text: str, flat: bool) -> bool:
    end = 0
    for ways in messages:
        ends = [_behind_all(groups, text, end, flat) for groups in ways]
        found = [at for at in ends if at >= 0]
        if not found:
            return False
        end = min(found)
    return True


def _behind_all(groups: Groups, text: str, end: int, flat: bool) -> int:
    """Where the last group ends if each stands behind the one before; -1 if one does not."""
    for pieces in groups:
        start = end
        for piece in pieces:
            at = _find(piece, text, start, flat)
            if at < 0:
                return -1
            end = max(end, at)
    return end


def _find(piece: Any, text: str, start: int, flat: bool) -> int:
    """Where the first place of `piece` from `start` on ends; -1 if there is none."""
    if isinstance(piece, str) and not flat:
        said = piece.strip()
        if (at := text.find(said, start)) >= 0:
            return at + len(said)
    spelled = [_flat(form) if flat else form.strip() for form in forms(piece)]
    places = [(text.find(form, start), form) for form in spelled]
    found = [(at, form) for at, form in places if at >= 0]
    if not found:
        return -1
    at, form = min(found)
    return at + len(form)


def leaves(value: Any) -> Iterator[Any]:
    """Every key and every value within an object."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def of_schema(schema: Any) -> Iterator[Any]:
    """The words of a JSON schema that somebody chose: names, descriptions, values, patterns."""
    if isinstance(schema, list):
        for item in schema:
            yield from of_schema(item)
    elif isinstance(schema, dict):
        for name, item in schema.items():
            if name in ("description", "title", "pattern", "default", "const", "enum"):
                yield from leaves(item)
            elif name == "properties" and isinstance(item, dict):
                yield from item
                yield from of_schema(list(item.values()))
            else:
                yield from of_schema(item)


def is_spelled(value: Any, text: str) -> bool:
    """Whether a value stands in a text in one of its `forms`, or with other white space."""
    if isinstance(value, str) and value in text:
        return True
    if any(form in text for form in forms(value)):
        return True
    return isinstance(value, str) and (value.strip() in text or _flat(value) in _flat(text))


def forms(value: Any) -> list[str]:
    """How templates write a value: as it is, as JSON, as Python does, with white space made one."""
    if not isinstance(value, str):
        return [json.dumps(value), str(value)]
    found = [value, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]]
    return [*found, repr(value)[1:-1], _flat(value)]


def _flat(text: str) -> str:
    return " ".join(text.split())
