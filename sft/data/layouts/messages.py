"""A column `messages`: a list of `{role, content}`, as OpenAI and the Hub's chat datasets have."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, messages_in


def _convert(row: Row, where: str) -> Any:
    return messages_in(row, "messages", where)


MESSAGES = Layout(frozenset({"messages"}), _convert)
