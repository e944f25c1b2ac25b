"""A column `conversations`: a list of `{from, value}`, as in ShareGPT, or of `{role, content}`."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, messages_in
from sft.data.other_data import refuse_history


def _convert(row: Row, where: str) -> Any:
    refuse_history(row, where)
    return messages_in(row, "conversations", where)


CONVERSATIONS = Layout(
    frozenset({"conversations"}),
    _convert,
    spellings=tuple({"conversations": name} for name in ("conversation", "dialog", "dialogue")),
)
