"""Columns `prompt` and `completion`, as in TRL: texts, or lists of messages.

`history`, if there is any, is read by `sft.data.layouts.history`. The prompt is context: answers in
it have weight 0, unless they say otherwise.
"""

from __future__ import annotations

from typing import Any

from sft.data.canonical import known_role
from sft.data.json_text import from_text
from sft.data.layouts.base import Layout, Row, is_message, text
from sft.data.layouts.history import history
from sft.data.other_data import refuse_history
from sft.data.weights import by_another_name
from sft.errors import BadInput


def _convert(row: Row, where: str) -> Any:
    prompt, completion = (_listed(row[column]) for column in ("prompt", "completion"))
    if prompt is not None:
        refuse_history(row, where)
    return [
        *history(row.get("history"), where),
        *(_asked(row, where) if prompt is None else map(_as_context, prompt)),
        *(_answered(row, where) if completion is None else completion),
    ]


def _asked(row: Row, where: str) -> list[Row]:
    return [{"role": "user", "content": text(row, "prompt", where)}]


def _answered(row: Row, where: str) -> list[Row]:
    return [{"role": "assistant", "content": text(row, "completion", where)}]


def _listed(value: Any) -> list[Any] | None:
    """The messages that a column holds; None if it holds a text, or something else.

    A text is a list of messages only if it is nothing else: an answer may be JSON, too.
    """
    if is_message(value):
        return [value]
    if not isinstance(value, str):
        return value if isinstance(value, list) else None
    if value.lstrip()[:1] != "[":
        return None
    try:
        found = from_text(value, "", "", python=True)
    except BadInput:
        return None
    return found if isinstance(found, list) and found and all(map(is_message, found)) else None


def _as_context(message: Any) -> Any:
    if not isinstance(message, dict) or not _may_answer(message) or by_another_name(message):
        return message
    return {"weight": 0, **{key: item for key, item in message.items() if item is not None}}


def _may_answer(message: Row) -> bool:
    """Whether it is the assistant's, or of a role that stands for a call of it."""
    return known_role(message.get("role") or message.get("from")) in ("assistant", None)


PROMPT_COMPLETION = Layout(
    frozenset({"prompt", "completion"}),
    _convert,
    beside=frozenset({"history"}),
    spellings=(
        {"completion": "response"},
        {"prompt": "question", "completion": "answer"},
        {"prompt": "question", "completion": "response"},  # OpenOrca
        {"prompt": "query", "completion": "response"},
        {"prompt": "input", "completion": "output"},
    ),
)
