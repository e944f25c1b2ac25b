"""A column `messages`: a list of `{role, content}`, as OpenAI and the Hub's chat datasets have."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, messages_in
from sft.data.other_data import refuse_history


def _convert(row: Row, where: str) -> Any:
    refuse_history(row, where)
    return messages_in(row, "messages", where)


MESSAGES = Layout(frozenset({"messages"}), _convert)
