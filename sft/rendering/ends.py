"""The end of a turn: what a chat template writes behind an answer, and where sampling stops.

Most templates close a turn with a marker. Some (GLM's) write none: there the next speaker's marker
ends it, which the template writes once a message follows. Templates without any marker (for base
models) end a turn with the next speaker's name.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from typing import Any

from sft.errors import BadInput
from sft.rendering.conversations import Messages
from sft.rendering.habits import ID, QUESTION, Habits
from sft.rendering.template_text import STAND_IN

FOLLOWING = "STANDIN1WORDS"
ANSWER: dict[str, Any] = {"role": "assistant", "content": STAND_IN}
FOLLOWERS: dict[str, dict[str, Any]] = {
    "user": {"role": "user", "content": FOLLOWING},
    "tool": {"role": "tool", "content": FOLLOWING, "name": "probe", "tool_call_id": "call00001"},
}


@dataclass(frozen=True)
class End:
    """What ends a turn."""

    text: str
    written: str
    """The part of `text` that the template writes if no message follows: all of it, usually."""


class Ends:
    """How turns end with a template; `marker` matches the tokenizer's control tokens."""

    def __init__(self, habits: Habits, marker: re.Pattern[str]):
        self.habits, self.text = habits, habits.text
        self.marker = marker

    @functools.cached_property
    def of_answers(self) -> dict[str, End]:
        """By the role of the message that follows. Raises `BadInput` if there is no end."""
        last = self._behind([QUESTION, ANSWER]) or ""
        behind = self._behind([QUESTION, ANSWER, FOLLOWERS["user"]])
        run = _shared(last, behind, self.marker)
        if markers := list(self.marker.finditer(run)):
            end = run[: markers[-1].end()]
            return {"user": End(end, end)}
        if run.strip():
            return {"user": End(run.rstrip(), run.rstrip())}
        ends = {}
        for role in FOLLOWERS:
            behind = self._behind([QUESTION, ANSWER, FOLLOWERS[role]])
            if found := self._next_speaker(last, behind):
                ends[role] = End(found, last)
        if "user" not in ends:
            raise BadInput(
                "model.renderer: the chat template writes nothing behind an answer, neither a "
                "marker nor the next speaker, so no answer would learn to stop; set "
                "model.renderer=role_colon, or a tokenizer whose template ends its turns"
            )
        if self.marker.search(ends["user"].text):  # sampling stops at tokens, not at words too
            return {role: end for role, end in ends.items() if self.marker.search(end.text)}
        return ends

    @functools.cached_property
    def of_calls(self) -> dict[str, End]:
        """As `of_answers`, for turns that call a tool."""
        answers = self.of_answers
        call = self.habits.call
        if call is None or any(end.text != end.written for end in answers.values()):
            return answers
        last = self._behind([QUESTION, call]) or ""
        behind = self._behind([QUESTION, call, FOLLOWERS["tool"]])
        run = _shared(last, behind, self.marker)
        if answers["user"].text in run:
            return answers
        between = self._between_calls(call)
        markers = [found[0] for found in self.marker.finditer(run) if found[0] not in between]
        if markers:
            return {"user": End(markers[-1], markers[-1])}
        found = self._next_speaker(last, behind)
        return answers | ({"tool": End(found[len(last) :], "")} if found else {})

    def whole(self, rest: str, message: dict[str, Any], following: str | None) -> str:
        """The turn that `rest` begins with, up to and with its end.

        `rest` is what the template writes behind the prompt of the last message, `message`;
        `following` is the role of the next message of the conversation. Raises `BadInput`.
        """
        kinds = self.of_calls if message.get("tool_calls") else self.of_answers
        usual = "tool" if message.get("tool_calls") else "user"
        answer = self.of_answers["user"].text.strip()
        if message.get("tool_calls") and self.marker.search(answer):
            if rest.rstrip().endswith(answer):  # whatever a turn of calls usually ends with
                return rest.rstrip()
        end = kinds.get(following or usual) or kinds.get(usual) or kinds["user"]
        if not self.marker.search(end.text) and rest.count(end.text) > (end.text == end.written):
            raise BadInput(f"the words hold {end.text!r}, which ends a turn with this template")
        if end.text != end.written:
            return rest[: len(rest) - len(end.written)] + end.text
        if (found := rest.rfind(end.text)) >= 0:
            return rest[: found + len(end.text)]
        # A turn that ends in another way than the ones that were tried: where sampling stops.
        markers = [found for found in self.marker.finditer(rest) if found[0] in self.stops]
        if markers:
            return rest[: markers[-1].end()]
        raise BadInput(
            f"the chat template does not end the turn with {end.text!r}, where sampling stops; "
            "change the row, or set dataset.on_lost=leave_out"
        )

    def check_once(self, turn: str) -> None:
        """Raises `BadInput` if sampling would stop before the end of `turn`."""
        for found in self.marker.finditer(turn):
            if found[0] in self.stops and turn[found.end() :].strip():
                raise BadInput(
                    f"the chat template writes {found[0]!r} within the turn, where sampling would "
                    "stop before its end; take another model.renderer"
                )

    def closed(self, text: str, last: dict[str, Any]) -> str:
        """A whole conversation whose last turn has its end, if that is the next one's marker."""
        if last["role"] != "assistant":
            return text
        usual = "tool" if last.get("tool_calls") else "user"
        kinds = self.of_calls if last.get("tool_calls") else self.of_answers
        end = kinds.get(usual) or kinds["user"]
        if end.text == end.written or not text.endswith(end.written):
            return text
        return text[: len(text) - len(end.written)] + end.text

    @functools.cached_property
    def stops(self) -> list[str]:
        """What sampling stops at: for each end its last marker, or the whole text without one."""
        found: dict[str, None] = {}
        for end in (*self.of_answers.values(), *self.of_calls.values()):
            markers = list(self.marker.finditer(end.text))
            found[markers[-1][0] if markers else end.text] = None
        return list(found)

    def _behind(self, messages: Messages) -> str | None:
        try:
            found = self.text.write(messages, self.habits.variables).partition(STAND_IN)
        except BadInput:
            return None
        return found[2] if found[1] else None

    def _between_calls(self, call: dict[str, Any]) -> set[str]:
        """The markers between two calls of one turn: they end a call, not the turn."""
        first = call["tool_calls"][0]
        second = {**first, "id": ID.format(2)}
        both = self._behind([QUESTION, {**call, "tool_calls": [first, second]}]) or ""
        return set(self.marker.findall(both.partition(STAND_IN)[0])) if STAND_IN in both else set()

    def _next_speaker(self, last: str, behind: str | None) -> str:
        """What stands behind an answer up to the next speaker's marker or words."""
        if behind is None or not behind.startswith(last):
            return ""
        if marker := self.marker.search(behind, len(last)):
            return behind[: marker.end()]
        return behind.partition(FOLLOWING)[0].rstrip()


def _shared(last: str, behind: str | None, marker: re.Pattern[str]) -> str:
    """What stands behind an answer whether or not a message follows (`behind`).

    If the two go on differently, that is up to the first marker of `last`: some templates always
    write the next prompt, or end the whole text.
    """
    common = os.path.commonprefix([last, last if behind is None else behind])
    if last.strip() and last.rstrip() == common.rstrip():
        return last
    first = marker.search(last)
    return last[: first.end()] if first else common
