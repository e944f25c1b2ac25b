"""Tools and calls of tools in the forms that people have, as one form: OpenAI's.

A tool is `{"type": "function", "function": {"name", "description", "parameters"}}`, a call
`{"type": "function", "function": {"name", "arguments": {…}}}`.
"""

from __future__ import annotations

from typing import Any

from sft.data.json_text import (
    from_text,
    holds_nulls,
    not_finite,
    plain,
    type_name,
    without_nulls,
)
from sft.errors import BadInput

FROM_TEXT = "tool arguments read from JSON text"
OLD_FORM = "function_call read as a tool call"
NULLS = "nulls left out of tool arguments (a table fills them in)"
"""What may be changed on the way, said once for each kind."""


def tools(value: Any, column: str, where: str, filled: bool) -> list[dict[str, Any]]:
    """The tools in `column`: a list, JSON text of one, or nothing.

    A bare function is wrapped. `filled` says that a table has filled in nulls. Raises `BadInput`.
    """
    if value is None or value != value or value in ("", "None", "nan"):  # of pandas, some
        return []
    found = from_text(value, f"'{column}'", where, python=True)
    if found is None:
        return []
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise BadInput(
            f"{where}: '{column}' is {type_name(found)}; expected a list of tools, each "
            '{"type": "function", "function": {"name": …, "parameters": …}}'
        )
    return [
        _tool(item, f"{where}: tool {number}", filled) for number, item in enumerate(found, start=1)
    ]


def _tool(value: Any, where: str, filled: bool) -> dict[str, Any]:
    found = from_text(value, "the tool", where)
    if filled:
        found = without_nulls(plain(found, "the tool", where))
    if not isinstance(found, dict):
        raise BadInput(
            f"{where}: is {type_name(found)}; expected an object with the function's "
            "name, description and parameters"
        )
    _check_numbers(found, where)
    if isinstance(found.get("function"), dict):
        return {"type": "function", **found}
    if "name" in found and found.get("type", "function") == "function":
        return {"type": "function", "function": {k: v for k, v in found.items() if k != "type"}}
    if "type" not in found:
        raise BadInput(f"{where}: has no 'name'; it has {', '.join(map(str, found)) or 'nothing'}")
    return found


def calls(
    message: dict[str, Any], where: str, filled: bool, notes: set[str]
) -> list[dict[str, Any]]:
    """The calls of an assistant's message: `tool_calls`, and the old `function_call`.

    What is changed is added to `notes`. Raises `BadInput`.
    """
    found = from_text(message.get("tool_calls") or [], "'tool_calls'", where)
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise BadInput(
            f"{where}: 'tool_calls' is {type_name(found)}; expected a list of calls, each "
            '{"type": "function", "function": {"name": …, "arguments": {…}}}'
        )
    made = [
        call(item, f"{where}: tool call {number}", filled, notes)
        for number, item in enumerate(found, start=1)
    ]
    if old := message.get("function_call"):
        as_call = call(from_text(old, "'function_call'", where), where, filled, notes)
        if as_call["function"] not in [item["function"] for item in made]:
            made.append(as_call)
            notes.add(OLD_FORM)
    return made


def call(value: Any, where: str, filled: bool, notes: set[str]) -> dict[str, Any]:
    """One call: as OpenAI writes it, or just `{"name": …, "arguments": …}`. Raises `BadInput`."""
    value = from_text(value, "the call", where)
    if not isinstance(value, dict):
        raise BadInput(f"{where}: is {type_name(value)}; expected {{name, arguments}}")
    given = {key: item for key, item in value.items() if item is not None}
    outer: dict[str, Any] = {}
    if isinstance(given.get("function"), dict):
        outer = given
        given = {k: v for k, v in given["function"].items() if v is not None}
    else:  # just {"name": …, "arguments": …}, perhaps with an id
        outer = {key: given.pop(key) for key in ("id", "type") if key in given}
    if "arguments" not in given and isinstance(given.get("parameters"), dict):
        given = {"arguments" if k == "parameters" else k: v for k, v in given.items()}
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise BadInput(
            f"{where}: has no 'name' of a function; expected "
            '{"function": {"name": …, "arguments": {…}}}'
        )
    what = f"{where}: the arguments of '{name}'"
    arguments = _arguments(given.get("arguments"), what, filled, notes)
    # In the order of the file: some templates write a call as the JSON that it is.
    outer = outer if "type" in outer else {"type": "function", **outer}
    return {**outer, "function": {**given, "arguments": arguments}}


def _arguments(value: Any, what: str, filled: bool, notes: set[str]) -> dict[str, Any]:
    """The arguments as an object: `what` is their place and name, for messages."""
    if isinstance(value, str):
        if not value.strip():
            return {}
        where, _, name = what.rpartition(": ")
        value = from_text(value, name, where)
        notes.add(FROM_TEXT)
    elif filled and holds_nulls(value):
        value = without_nulls(value)
        notes.add(NULLS)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(
            f'{what} are {type_name(value)}; expected a JSON object, such as {{"city": "Oslo"}}'
        )
    _check_numbers(value, what)
    return value


def _check_numbers(value: Any, what: str) -> None:
    if (number := not_finite(value)) is not None:
        raise BadInput(
            f"{what}: {number} is no number that JSON has (or one that is too large); leave it "
            "out, or write it as text"
        )
