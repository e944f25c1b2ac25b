"""A column `text`: raw text. It is no chat: all of it is trained."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, text


def _convert(row: Row, where: str) -> Any:
    return text(row, "text", where)


TEXT = Layout(frozenset({"text"}), _convert, raw=True)
