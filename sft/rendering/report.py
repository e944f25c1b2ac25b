"""What became of the rows of a file beside its sequences: nothing vanishes without a word."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Left:
    """Rows that are left out for one reason."""

    count: int
    first: str
    """The first of them, as a sentence that names its place."""


@dataclass
class Report:
    """What was found in a source, what of it is not used, and what was changed on the way."""

    found: str = ""
    """What the file is: `JSONL in gzip, layout messages`."""
    unused: list[str] = field(default_factory=list)
    """Columns that are not read."""
    fields: list[str] = field(default_factory=list)
    """Fields of messages that only a chat template could read."""
    left_out: dict[str, Left] = field(default_factory=dict)
    """Rows that are not trained on, by kind."""
    notes: dict[str, int] = field(default_factory=dict)
    """What was changed, and in how many conversations."""
    said: list[str] = field(default_factory=list)
    """Sentences of their own."""

    def leave_out(self, kind: str, sentence: str, count: int = 1) -> None:
        """Count rows of a kind; the first sentence of it is kept."""
        self.left_out.setdefault(kind, Left(0, sentence)).count += count

    def note(self, kind: str, count: int = 1) -> None:
        """Count conversations in which something was changed."""
        self.notes[kind] = self.notes.get(kind, 0) + count

    def add(self, other: Report) -> None:
        """Take in what a later part of the same source says."""
        self.found = self.found or other.found
        self.unused += [name for name in other.unused if name not in self.unused]
        self.fields += [name for name in other.fields if name not in self.fields]
        for kind, left in other.left_out.items():
            self.leave_out(kind, left.first, left.count)
        for kind, count in other.notes.items():
            self.note(kind, count)
        self.said += other.said

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Report:
        left = {kind: Left(**value) for kind, value in saved["left_out"].items()}
        return cls(**{**saved, "left_out": left})

    def lines(self) -> list[str]:
        """One sentence for each thing that a reader should know, without what was found."""
        said = [*self.said]
        if self.unused:
            said.append(f"not used: {', '.join(self.unused)}")
        if self.fields:
            said.append(f"not used by the chat template: {', '.join(self.fields)}")
        for kind, left in self.left_out.items():
            said.append(f"{left.count:,} left out, {kind}: {left.first}")
        said += [f"{kind}: {count:,} conversations" for kind, count in self.notes.items()]
        return said
