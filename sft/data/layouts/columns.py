"""Which layout the columns of a file are, and what they are called there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sft.data.layouts import LAYOUTS
from sft.data.layouts.base import Names
from sft.data.layouts.text import TEXT
from sft.data.other_data import refuse_pairs
from sft.errors import BadInput

PROMPTS = ("prompt", "instruction", "question", "query")
"""Columns that ask, of a file without one that answers."""
ANSWERS = ("answers", "completions", "responses", "outputs")
"""Columns of more than an answer, such as xLAM's calls of tools."""


def detect(columns: Iterable[str], where: str, *, cells: bool = False) -> str:
    """The layout that fits the names of the columns; `cells`: they are those of a CSV file.

    Raises `BadInput`, naming the columns found, or saying what other data this is.
    """
    present = set(map(str, columns))
    if "messages" not in present:  # some datasets have the chosen chat there, too
        refuse_pairs(present, where)
    for name, layout in LAYOUTS.items():
        if layout.names(present) is not None:
            return name
    listed = [name for name in ANSWERS if name in present]
    if listed and (asking := [name for name in PROMPTS if name in present]):
        raise BadInput(
            f"{where}: holds '{asking[0]}' and '{listed[0]}'; expected 'messages', or a column "
            "'completion' with the text of one answer (a call of a tool stands in the "
            "'tool_calls' of a message)"
        )
    if asking := [name for name in PROMPTS if name in present]:
        raise BadInput(
            f"{where}: holds prompts without answers ('{asking[0]}'; it has the columns "
            f"{_listed(present)}); training needs an answer for each, such as a column "
            f"'{'output' if asking[0] == 'instruction' else 'completion'}'"
        )
    if any(layout.names({name.lower() for name in present}) for layout in LAYOUTS.values()):
        raise BadInput(
            f"{where}: has the columns {_listed(present)}; names of columns are written in small "
            f"letters: rename them to {_listed(name.lower() for name in present)}"
        )
    if isinstance(columns, dict):
        for name, value in columns.items():
            if _may_be_rows(value):
                raise BadInput(
                    f"{where}: has the columns {_listed(present)}, of which '{name}' holds a list "
                    "of objects; if that list is the data, write it as a file of its own, such as "
                    f"with `jq -c '.[\"{name}\"][]' OLD > NEW.jsonl`"
                )
    expected = [" and ".join(map(repr, sorted(layout.columns))) for layout in LAYOUTS.values()]
    first = "; the first line of a CSV file names its columns" if cells else ""
    raise BadInput(
        f"{where}: has the columns {_listed(present)}; expected {', '.join(expected[:-1])}, "
        f"or {expected[-1]}{first}"
    )


def _may_be_rows(value: Any) -> bool:
    """Whether a list may be data by itself. What is raw text then is pieces of one chat (Axolotl's
    `segments`)."""
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        return False
    return not TEXT.columns <= value[0].keys()


def names(columns: Iterable[str], layout: str, where: str) -> Names:
    """What the columns of `layout` are called here. Raises `BadInput` if one is missing."""
    present = set(map(str, columns))
    if (found := LAYOUTS[layout].names(present)) is not None:
        return found
    missing = sorted(LAYOUTS[layout].columns - present)
    raise BadInput(f"{where}: has no '{missing[0]}' (layout {layout}); it has {_listed(present)}")


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(map(str, columns))) or "none"
