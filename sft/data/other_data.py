"""Columns that show that a row is no text chat with good answers, which is then refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sft.errors import BadInput

MEDIA = {
    "image": "an image", "images": "images", "video": "a video", "videos": "videos",
    "audio": "audio", "audios": "audio",
}  # fmt: skip
"""Columns, and fields of a message, that hold what is no text."""

LABELS = ("label", "kto_tag")
"""Columns of unpaired preferences (TRL, LLaMA-Factory): whether an answer is a good one."""

PAIRS = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
"""Columns of paired preferences (TRL and LLaMA-Factory, OpenAI)."""

WATCHED = frozenset({*MEDIA, *LABELS, "history", "chosen", "rejected"})
"""Columns that are looked at even if no layout reads them."""


def refuse_media(holder: Mapping[str, Any], where: str) -> None:
    """Raises `BadInput` if a row or a message has something beside its text."""
    for name, what in MEDIA.items():
        if name in holder and not is_empty(holder[name]):
            raise BadInput(
                f"{where}: '{name}' holds {what}; only text is trained on: leave the row out, or "
                "write in words what is shown or heard"
            )


def refuse_pairs(columns: Collection[str], where: str) -> None:
    """Raises `BadInput` if the columns are those of a better and a worse answer."""
    for better, worse in PAIRS:
        if better in columns and worse in columns:
            raise BadInput(
                f"{where}: is preference data ('{better}' and '{worse}'), which fine-tuning on "
                "answers cannot use as pairs; to train on the chosen answers, write a file whose "
                'lines are {"messages": [the prompt, the chosen answer]}'
            )


def refuse_preferences(row: Mapping[str, Any], where: str, *, pair: bool) -> None:
    """Raises `BadInput` if a column says whether the answer of the row is a good one.

    `pair` says that the row is a prompt and a completion: beside these a label of 0 or 1 says it.
    """
    for name in LABELS:
        value = row.get(name)
        # In a table for all kinds of rows the column may be null. A label may also be a class.
        words = ("true", "false", "1", "0", "1.0", "0.0") if pair else ("true", "false")
        says = str(value).strip().lower() in words
        if says or (name != "label" and not is_empty(value)):
            raise BadInput(
                f"{where}: is preference data ('{name}' says whether an answer is good), which "
                f"fine-tuning on answers cannot use; keep the rows whose {name} is true, without "
                "that column"
            )


def refuse_history(row: Mapping[str, Any], where: str) -> None:
    """Raises `BadInput` if a row of messages has earlier turns in a column of their own."""
    if not is_empty(row.get("history")):
        raise BadInput(
            f"{where}: has messages and a 'history' beside them; expected all turns in one list: "
            "put the earlier ones first, or leave the column out"
        )


def is_empty(value: Any) -> bool:
    """Whether a value, or all that it holds, stands for nothing: a table fills in nulls."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or value is False or value in ("", b"", "[]", "{}")
