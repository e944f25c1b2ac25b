"""What the doctor found, as lines for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "missing", "different", "not asked"]
WIDTH = 100


@dataclass(frozen=True)
class Row:
    """One thing that a service can do, or not."""

    topic: str
    state: State
    found: str
    harness: str = ""
    """What is done about it."""
    ends_a_run: bool = False
    """Without it a run cannot train."""

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.topic,
            "state": self.state,
            "found": self.found,
            "harness": self.harness,
            "ends_a_run": self.ends_a_run,
        }


def lines(rows: Sequence[Row]) -> list[str]:
    """One line a row, and a last one that says whether a run can train."""
    widest = max(len(row.topic) for row in rows)
    shown = []
    for row in rows:
        text = " -> ".join(part for part in (row.found, row.harness) if part)
        shown.append(_cut(f"{row.topic:<{widest}}  {row.state:<9}  {text}"))
    ended = [row.topic for row in rows if row.ends_a_run]
    unknown = [row.topic for row in rows if row.state == "not asked"]
    verdict = f"a run cannot train here: {', '.join(ended)}" if ended else "a run can train here"
    if unknown:
        verdict += f"{'' if ended else ', as far as was asked'}; not known: {', '.join(unknown)}"
    return [*shown, verdict]


def _cut(line: str) -> str:
    """A table has one line for each row: what is longer is told in full by --json."""
    line = " ".join(line.split("\n")).rstrip()
    return line if len(line) <= 2 * WIDTH else line[: 2 * WIDTH - 1] + "…"
