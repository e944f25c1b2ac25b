"""Column layouts: a row of somebody's data as a list of chat messages.

| layout | columns |
| --- | --- |
| messages | `messages`: list of `{role, content}` |
| conversations | `conversations`: list of `{from, value}` (ShareGPT) or `{role, content}` |
| alpaca | `instruction`, `output` and, where they are, `input` and `system` |
| prompt_completion | `prompt` and `completion`: texts, or lists of messages |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sft.errors import BadInput

Messages = list[dict[str, Any]]

SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}
"""Speakers' names in ShareGPT files; every other name is taken as a role."""


def detect(columns: Iterable[str], where: str) -> str:
    """The layout that fits the names of the columns. Raises `BadInput`, naming those found."""
    present = set(columns)
    for layout, (needed, _) in LAYOUTS.items():
        if needed <= present:
            return layout
    raise BadInput(
        f"{where}: has the columns {_names(present)}; expected "
        + ", or ".join(" and ".join(map(repr, sorted(needed))) for needed, _ in LAYOUTS.values())
    )


def require(columns: Iterable[str], layout: str, where: str) -> None:
    """Raises `BadInput`, naming the columns found, unless they hold those of `layout`."""
    present = set(columns)
    if missing := sorted(LAYOUTS[layout][0] - present):
        raise BadInput(
            f"{where}: has no '{missing[0]}' (layout {layout}); it has {_names(present)}"
        )


def to_messages(row: Any, layout: str, where: str) -> Messages:
    """The messages in `row`. They are not checked: see `check_conversation`.

    Raises:
        BadInput: the row lacks the layout's columns, or they hold something else.
    """
    if not isinstance(row, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(row).__name__}")
    needed, convert = LAYOUTS[layout]
    if not needed <= row.keys():
        require(row, layout, where)
    return convert(row, where)


def _messages(row: dict[str, Any], where: str) -> Any:
    return _tidy(row["messages"])


def _conversations(row: dict[str, Any], where: str) -> Any:
    turns = row["conversations"]
    if not isinstance(turns, list):
        return turns
    return _tidy([_turn(turn) for turn in turns])


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if "from" in turn:
        rest["role"] = SHAREGPT_ROLES.get(turn["from"], turn["from"])
    if "value" in turn:
        rest["content"] = turn["value"]
    return rest


def _alpaca(row: dict[str, Any], where: str) -> Messages:
    instruction, extra = _text(row, "instruction", where), row.get("input")
    if extra:
        instruction = f"{instruction}\n\n{_text(row, 'input', where)}"
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [
        *system,
        {"role": "user", "content": instruction},
        {"role": "assistant", "content": _text(row, "output", where)},
    ]


def _prompt_completion(row: dict[str, Any], where: str) -> Any:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _tidy(prompt + completion)
    return [
        {"role": "user", "content": _text(row, "prompt", where)},
        {"role": "assistant", "content": _text(row, "completion", where)},
    ]


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise BadInput(f"{where}: '{column}' is {type(value).__name__}; expected text")
    return value


def _tidy(messages: Any) -> Any:
    """Without the nulls that a table puts where a message lacks an optional field."""
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


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(map(str, columns))) or "none"


LAYOUTS: dict[str, tuple[set[str], Callable[[dict[str, Any], str], Any]]] = {
    "messages": ({"messages"}, _messages),
    "conversations": ({"conversations"}, _conversations),
    "alpaca": ({"instruction", "output"}, _alpaca),
    "prompt_completion": ({"prompt", "completion"}, _prompt_completion),
}
"""Per layout the columns it needs and its conversion, in the order in which they are tried."""
