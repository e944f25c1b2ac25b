"""JSON that stands as text where a list or an object belongs: in a cell of CSV, in a column."""

from __future__ import annotations

import ast
import datetime
import json
import math
from decimal import Decimal
from typing import Any

from sft.errors import BadInput


class UnusableJSON(ValueError):
    """JSON of which something would be lost."""


LONG_INTEGER = "holds an integer of more than 4,300 digits; write it as text, in quotes"
"""What Python refuses, and `json` with it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UnusableJSON(f"has the key {twice!r} twice in one object; keep one of them")
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Raises `UnusableJSON` for an object that names a key twice: `json` keeps the last in silence."""


def from_text(value: Any, what: str, where: str, *, python: bool = False) -> Any:
    """`value`, or the JSON that it is if it is text; with `python` also what Python prints.

    `what` names it in messages. Raises `BadInput` for another text.
    """
    if not isinstance(value, str):
        return value
    try:
        return DECODER.decode(value)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos + 1}"
    except UnusableJSON as error:
        raise BadInput(f"{where}: {what}: {error}") from None
    except ValueError:
        raise BadInput(f"{where}: {what}: {LONG_INTEGER}") from None
    except RecursionError:
        reason = "nested too deeply"
    if python and value.lstrip()[:1] in ("[", "{"):  # a list that pandas wrote into a CSV file
        try:
            return as_json(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    raise BadInput(f"{where}: {what}: text that is not JSON: {reason}")


def as_json(value: Any) -> Any:
    """`value` with what tables and Python have and JSON has not written as JSON would have it.

    Dates and times become text in ISO form, decimals numbers, bytes the text that they are in
    UTF-8. Raises `UnusableJSON` for what has no such form.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date, too
        return value.isoformat()
    if isinstance(value, Decimal) and value.is_finite():
        number = int(value) if value == value.to_integral_value() else float(value)
        if Decimal(repr(number)) == value:
            return number
        raise UnusableJSON(f"holds the number {value}, which has too many digits; write it as text")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnusableJSON("holds bytes that are no text in UTF-8") from None
    what = "keys that are no text" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise UnusableJSON(f"holds {what}, which JSON does not have; write it as text")


def plain(value: Any, what: str, where: str) -> Any:
    """`as_json` of a table's value; `what` names it. Raises `BadInput`."""
    try:
        return as_json(value)
    except UnusableJSON as error:
        raise BadInput(f"{where}: {what}: {error}") from None


def without_nulls(value: Any) -> Any:
    """Without the keys that hold null, at any depth. Nulls in lists stay."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def holds_nulls(value: Any) -> bool:
    """Whether `without_nulls` would leave something out."""
    if isinstance(value, dict):
        return any(item is None or holds_nulls(item) for item in value.values())
    return isinstance(value, list) and any(map(holds_nulls, value))


def not_finite(value: Any) -> float | None:
    """A number in `value`, at any depth, that JSON cannot write: NaN or an infinity."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        return next((found for item in items if (found := not_finite(item)) is not None), None)
    return None


def type_name(value: Any) -> str:
    """What people call the type of a JSON value."""
    names: dict[type, str] = {
        dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null",
        int: "a number", float: "a number",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def not_text(value: Any, column: str, where: str) -> str:
    """The message for a column that holds another value than text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    hint = "; write the number in quotes, as text" if number else ""
    return f"{where}: '{column}' is {type(value).__name__}; expected text{hint}"
