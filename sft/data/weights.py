"""Whether a message is trained on, as its own fields say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft.errors import BadInput


def weight(message: Mapping[str, Any], where: str) -> int | None:
    """0 or 1; None if the message does not say. Raises `BadInput`."""
    trainable = message.get("trainable")
    if trainable is not None and not isinstance(trainable, bool):
        raise BadInput(f"{where}: 'trainable' is {trainable!r}; expected true or false")
    said: dict[str, int] = {}
    if (given := message.get("weight")) is not None:
        if isinstance(given, bool) or not _is_yes_or_no(given):
            raise BadInput(f"{where}: the weight is {given!r}; expected 0 (context) or 1 (trained)")
        said["weight"] = int(given)
    for name in by_another_name(message):
        if not _is_yes_or_no(message[name]):
            raise BadInput(f"{where}: '{name}' is {message[name]!r}; expected true or false")
        said[name] = int(message[name])
    if len(set(said.values())) > 1:
        raise BadInput(
            f"{where}: has {' and '.join(map(repr, said))}, which differ; keep the one that says "
            "whether it is trained on"
        )
    return next(iter(said.values()), None)


def by_another_name(message: Mapping[str, Any]) -> list[str]:
    """The fields of `message` that other tools call its weight.

    A `loss` of another number is what somebody has measured.
    """
    found = ["train"] if message.get("train") is not None else []
    return [*found, "loss"] if _is_yes_or_no(message.get("loss")) else found


def _is_yes_or_no(value: Any) -> bool:
    return isinstance(value, int | float) and value in (0, 1)
