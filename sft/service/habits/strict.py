"""Keys that a server does not know: left out where nothing is lost by it, refused elsewhere.

A server with the types of an older SDK answers 422 and names the key (`extra_forbidden`). Nothing
was begun then, so that the request may be made again without it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from sft.service.habits.record import Habits
from sft.service.habits.upstream import Answer

Path = tuple[str | int, ...]

UNASKED: tuple[Any, ...] = (None, False, 0, "", [], {}, {"type": "adamw"}, "snapshot")
"""What the SDK sends for a key that nobody has set."""

NO_LOSS = ("user_metadata", "ttl_seconds", "display_name", "project_id", "base_model", "type")
"""Keys that change no number: notes, and how long a checkpoint is kept."""

ON_BY_DEFAULT = ("train_mlp", "train_attn", "train_unembed")
"""Keys whose unset value is true."""

MOST_KEYS = 10
"""Of one request; more that are unknown are not a habit but another API."""


class StrictKeys:
    """The keys that a server does not take, by endpoint."""

    def __init__(self, habits: Habits):
        self._habits = habits
        self._unknown: dict[str, set[Path]] = {}

    def without_unknown(self, endpoint: str, message: dict[str, Any]) -> dict[str, Any] | Answer:
        """`message` without what the endpoint has refused before; a refusal if that would lose
        something that was asked for."""
        shorter = message
        for path in self._unknown.get(endpoint, ()):
            found = _value(shorter, path)
            if found is _NOTHING:
                continue
            if not _may_go(path, found):
                return Answer.of({"detail": self._loss(path, found)}, 400)
            shorter = _without(shorter, path)
        return shorter

    def learn(self, endpoint: str, answer: Answer) -> bool:
        """Whether a 422 names keys that were not known to be unknown."""
        new = set(_forbidden(answer)) - self._unknown.setdefault(endpoint, set())
        if len(self._unknown[endpoint]) + len(new) > MOST_KEYS:
            return False
        self._unknown[endpoint] |= new
        for path in new:
            name = ".".join(map(str, path))
            self._habits.say(f"{endpoint} without {name}", "the server does not know the key")
        return bool(new)

    def _loss(self, path: Path, value: Any) -> str:
        name = ".".join(map(str, path))
        return f"{self._habits.url} does not know {name}, and {name}={value} was asked for"


_NOTHING = object()


def _forbidden(answer: Answer) -> Iterator[Path]:
    value = answer.value if answer.status == 422 else None
    detail = value.get("detail") if isinstance(value, dict) else None
    for fault in detail if isinstance(detail, list) else ():
        if isinstance(fault, dict) and fault.get("type") == "extra_forbidden":
            where = tuple(fault.get("loc") or ())
            if path := where[1:] if where[:1] == ("body",) else where:
                yield path


def _may_go(path: Path, value: Any) -> bool:
    name = path[-1]
    if name in NO_LOSS or name in ON_BY_DEFAULT:
        return name in NO_LOSS or value is True
    return any(value == unasked and type(value) is type(unasked) for unasked in UNASKED) or (
        isinstance(value, float) and value == 0
    )


def _value(message: Any, path: Path) -> Any:
    for part in path:
        try:
            message = message[part]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return message


def _without(message: dict[str, Any], path: Path) -> dict[str, Any]:
    shorter = copy.deepcopy(message)
    inner = _value(shorter, path[:-1])
    del inner[path[-1]]
    return shorter
