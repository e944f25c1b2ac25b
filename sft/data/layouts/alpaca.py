"""Columns `instruction` and `output`, as in Stanford Alpaca; `input` and `history` are optional.

`history` is read by `sft.data.layouts.history`.
"""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, text
from sft.data.layouts.history import history


def _convert(row: Row, where: str) -> list[dict[str, Any]]:
    instruction = text(row, "instruction", where)
    if row.get("input") is not None and (given := text(row, "input", where)):
        instruction = f"{instruction}\n\n{given}"
    return [
        *history(row.get("history"), where),
        {"role": "user", "content": instruction},
        {"role": "assistant", "content": text(row, "output", where)},
    ]


ALPACA = Layout(
    frozenset({"instruction", "output"}),
    _convert,
    beside=frozenset({"input", "history"}),
    spellings=(
        {"output": "response", "input": "context"},  # Dolly
        {"output": "response"},
    ),
)
