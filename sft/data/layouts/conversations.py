"""A column `conversations`: a list of `{from, value}`, as in ShareGPT, or of `{role, content}`."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, tidy

ROLES = {
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


def _convert(row: Row, where: str) -> Any:
    turns = row["conversations"]
    if not isinstance(turns, list):
        return turns
    return tidy([_turn(turn) for turn in turns])


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if "from" in turn:
        rest["role"] = ROLES.get(turn["from"], turn["from"])
    if "value" in turn:
        rest["content"] = turn["value"]
    return rest


CONVERSATIONS = Layout(frozenset({"conversations"}), _convert)
