"""Columns `instruction` and `output`, as in Stanford Alpaca; `input` and `history` are optional.

`history` holds earlier turns, pairs of a question and an answer (LLaMA-Factory). They are context:
their answers have weight 0.
"""

from __future__ import annotations

from typing import Any

from sft.data.json_text import from_text, type_name
from sft.data.layouts.base import Layout, Row, text
from sft.errors import BadInput


def _convert(row: Row, where: str) -> list[dict[str, Any]]:
    instruction = text(row, "instruction", where)
    if row.get("input"):
        instruction = f"{instruction}\n\n{text(row, 'input', where)}"
    return [
        *_history(row.get("history"), where),
        {"role": "user", "content": instruction},
        {"role": "assistant", "content": text(row, "output", where)},
    ]


def _history(value: Any, where: str) -> list[dict[str, Any]]:
    if value is None or value == "":
        return []
    turns = from_text(value, "'history'", where, python=True)
    if not isinstance(turns, list):
        raise BadInput(f"{where}: 'history' is {type_name(turns)}; expected a list of pairs")
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns, start=1):
        if not (isinstance(turn, list | tuple) and len(turn) == 2) or not all(
            isinstance(words, str) for words in turn
        ):
            raise BadInput(
                f"{where}: turn {number} of 'history' is not a pair of texts; "
                "expected [question, answer]"
            )
        question, answer = turn
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer, "weight": 0})
    return messages


ALPACA = Layout(
    frozenset({"instruction", "output"}),
    _convert,
    beside=frozenset({"input", "history"}),
    spellings=(
        {"output": "response", "input": "context"},  # Dolly
        {"output": "response"},
    ),
)
