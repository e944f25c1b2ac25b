"""Columns `prompt` and `completion`, as in TRL: texts, or lists of messages."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, text, tidy


def _convert(row: Row, where: str) -> Any:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return tidy(prompt + completion)
    return [
        {"role": "user", "content": text(row, "prompt", where)},
        {"role": "assistant", "content": text(row, "completion", where)},
    ]


PROMPT_COMPLETION = Layout(frozenset({"prompt", "completion"}), _convert)
