"""A conversation with a mark behind every piece, which shows whether a template writes it."""

from __future__ import annotations

from typing import Any

from sft.rendering.conversations import Messages
from sft.rendering.missing.lost_words import Lost

MARK = "MARK{:05d}BEHIND"
NUMBER = 910_000_000
"""What numbers become, counted on: their digits are the mark."""


class Marked:
    """Marks the pieces of prepared messages and tools, and finds the marks that are not written."""

    def __init__(self, said: Messages, tools: list[dict[str, Any]]):
        self._losses: list[tuple[int | None, str, Lost]] = []
        """The message (None: the tools), the mark, and what is lost if it is not written."""
        self.tools = [self._tool(tool) for tool in tools]
        self.said = [self._message(message, index) for index, message in enumerate(said)]

    def missing(self, index: int | None, text: str, *, thoughts: bool = False) -> list[Lost]:
        """What of message `index` (None: of the tools) has no mark in `text`."""
        return [
            lost
            for of, mark, lost in self._losses
            if of == index and mark not in text and (thoughts or lost.what != "its reasoning")
        ]

    def _mark(self, piece: str, index: int | None, what: str) -> str:
        if not piece.strip():
            return piece
        mark = MARK.format(len(self._losses))
        self._losses.append((index, mark, self._lost(index, what, piece)))
        return piece + mark

    def _lost(self, index: int | None, what: str, piece: object) -> Lost:
        return Lost("the tools" if index is None else f"message {index + 1}", what, piece)

    def _message(self, message: dict[str, Any], index: int) -> dict[str, Any]:
        made = {**message, "content": self._mark(message["content"], index, "its words")}
        if thought := message.get("reasoning_content"):
            made["reasoning_content"] = self._mark(thought, index, "its reasoning")
        if calls := message.get("tool_calls"):
            made["tool_calls"] = [self._call(call, index) for call in calls]
        return made

    def _call(self, call: dict[str, Any], index: int) -> dict[str, Any]:
        function = call["function"]
        name = function["name"]
        made = {**function, "name": self._mark(name, index, "the call of a tool")}
        if arguments := function.get("arguments"):
            made["arguments"] = self._deep(arguments, index, f"an argument of {name}")
        return {**call, "function": made}

    def _deep(self, value: Any, index: int, what: str) -> Any:
        if isinstance(value, str):
            return self._mark(value, index, what)
        if isinstance(value, list):
            return [self._deep(item, index, what) for item in value]
        if isinstance(value, dict):
            return {
                self._mark(name, index, what): self._deep(item, index, what)
                for name, item in value.items()
            }
        if isinstance(value, int | float) and not isinstance(value, bool):
            mark = NUMBER + len(self._losses)
            self._losses.append((index, str(mark), self._lost(index, what, value)))
            return mark
        return value

    def _tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        function = tool.get("function", tool)
        made = dict(function)
        for what in ("name", "description"):
            if isinstance(words := function.get(what), str):
                made[what] = self._mark(words, None, f"the {what} of a tool")
        return {**tool, "function": made} if "function" in tool else made
