"""Columns `prompt` and `completion`, as in TRL: texts, or lists of messages.

`history`, if there is any, is read by `sft.data.layouts.history`. The prompt is context: answers in
it have weight 0, unless they say otherwise.
"""

from __future__ import annotations

from typing import Any

from sft.data.canonical import known_role
from sft.data.layouts.base import Layout, Row, text
from sft.data.layouts.history import history
from sft.data.other_data import refuse_history
from sft.data.weights import by_another_name


def _convert(row: Row, where: str) -> Any:
    if isinstance(row["prompt"], list):
        refuse_history(row, where)
    return [
        *history(row.get("history"), where),
        *_messages(row, "prompt", "user", where),
        *_messages(row, "completion", "assistant", where),
    ]


def _messages(row: Row, column: str, role: str, where: str) -> list[Any]:
    value = row[column]
    if not isinstance(value, list):
        return [{"role": role, "content": text(row, column, where)}]
    if column == "completion":
        return value
    return [
        {"weight": 0, **{key: item for key, item in message.items() if item is not None}}
        if isinstance(message, dict) and _may_answer(message) and not by_another_name(message)
        else message
        for message in value
    ]


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
