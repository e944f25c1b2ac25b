"""Columns `instruction` and `output`, as in Stanford Alpaca; `input` and `system` are optional."""

from __future__ import annotations

from typing import Any

from sft.data.layouts.base import Layout, Row, text


def _convert(row: Row, where: str) -> list[dict[str, Any]]:
    instruction = text(row, "instruction", where)
    if row.get("input"):
        instruction = f"{instruction}\n\n{text(row, 'input', where)}"
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return [
        *system,
        {"role": "user", "content": instruction},
        {"role": "assistant", "content": text(row, "output", where)},
    ]


ALPACA = Layout(frozenset({"instruction", "output"}), _convert)
