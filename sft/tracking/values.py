"""Plain values as MLflow takes them: names it accepts, parameters it does not cut."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_NAME = 250
MAX_PARAMETER = 6_000
"""Characters; MLflow cuts a longer value without an error."""
MAX_TAG = 8_000
MAX_DIGEST = 36


def name(text: str) -> str:
    """`text` as a name of a parameter, metric or tag.

    Characters that MLflow refuses become `_`, with a digest behind so no two names meet.
    """
    allowed = re.sub(r"[^/\w.\- :]", "_", text)
    if posixpath.normpath(allowed) != allowed or allowed.startswith(("/", "..")) or allowed == ".":
        allowed = allowed.replace("/", "_").strip(".") or "_"
    allowed = allowed[: MAX_NAME - 9]
    return allowed if allowed == text else f"{allowed}-{digest(text)[:8]}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with dotted names: `{"lora": {"rank": 8}}` -> `lora.rank`, 8.

    An empty mapping is a leaf: it was set, too.
    """
    for key, value in settings.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value


def text(value: Any) -> str:
    """A value as the command line would take it: `null`, `true`, 0.0001, JSON for lists."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every value of `settings` as parameters, nothing cut.

    A value too long for one parameter is kept in `KEY.part1`, `KEY.part2`, …, which joined are
    the value; `KEY` holds its length and digest, so the runs list tells two of them apart.
    """
    found = {}
    for key, value in flatten(settings):
        whole, key = text(value), name(key)
        if len(whole) <= MAX_PARAMETER:
            found[key] = whole
            continue
        parts = [whole[i : i + MAX_PARAMETER] for i in range(0, len(whole), MAX_PARAMETER)]
        found[key] = f"{len(whole)} characters in {len(parts)} parts, sha256 {digest(whole)[:16]}"
        found |= {name(f"{key}.part{i}"): part for i, part in enumerate(parts, 1)}
    return found


def tag(value: str) -> str:
    """`value`, with its end cut visibly if MLflow would cut it silently."""
    return value if len(value) <= MAX_TAG else value[: MAX_TAG - 1] + "…"


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one row of metrics.jsonl: numbers only, without its step and timestamp."""
    return {
        name(key): float(value)
        for key, value in row.items()
        if key not in ("step", "timestamp")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }


def model_name(text: str) -> str:
    """`text` as a name of a logged model."""
    return re.sub(r"[/:.%\"']+", "-", text) or "checkpoint"
