"""A column `history`: earlier turns of a row of one question and one answer.

They are pairs of a question and an answer (LLaMA-Factory, ms-swift), and context: their answers
have weight 0.
"""

from __future__ import annotations

from typing import Any

from sft.data.json_text import from_text, type_name
from sft.errors import BadInput


def history(value: Any, where: str) -> list[dict[str, Any]]:
    """The messages of a column `history`; none if it is empty. Raises `BadInput`."""
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
