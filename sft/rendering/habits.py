"""What a chat template does with tool calls and reasoning, found by trying it where that can be.

Templates differ in what they take: a call's arguments as an object or as JSON text, a call beside
empty text or beside none, reasoning as a field or within the text.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from sft.errors import BadInput
from sft.rendering.conversations import Messages
from sft.rendering.template_text import REASONING, STAND_IN, TemplateText

ID = "call{:05d}"
"""Of calls that have none: nine letters and digits, as Mistral's templates ask for."""

QUESTION: dict[str, Any] = {"role": "user", "content": "Hi"}
PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
    },
}

THOUGHT = re.compile(r"\s*<think>\n*(.*?)\n*</think>\n*(.*)\Z", re.DOTALL)
"""An answer that begins with its reasoning."""
OPENED = re.compile(r"(?:(?!</?think>).)*\S\n*</think>\n+(.*)\Z", re.DOTALL)
"""One whose prompt opened the block: the closing tag stands at the end of a line."""
TAGS = re.compile(r"</?think>")


def call(arguments: Any, content: str | None, identifier: str = ID.format(1)) -> dict[str, Any]:
    """An assistant's message that calls the probe."""
    function = {"name": "probe", "arguments": arguments}
    made = {"type": "function", "id": identifier, "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [made]}


class Habits:
    """A template's habits, each found when it is first asked for."""

    def __init__(self, text: TemplateText):
        self.text = text

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """What the template is tried with: a tool, unless it refuses tools altogether."""
        variables = {"tools": [PROBE_TOOL]}
        try:
            self.text.write([QUESTION], variables)
        except BadInput:
            return {}
        return variables

    @functools.cached_property
    def knows_developer(self) -> bool:
        """Whether the template has a place of its own for the role `developer`."""
        return bool(re.search(r"""['"]developer['"]""", self.text.template))

    @property
    def knows_thinking(self) -> bool:
        """Whether the template has a place for reasoning, as a field or within the text."""
        return self.takes_reasoning or self.cuts_at_tags

    @functools.cached_property
    def cuts_at_tags(self) -> bool:
        """Whether the template looks for tags of thinking within the text."""
        return "</think>" in self.text.template

    @functools.cached_property
    def takes_reasoning(self) -> bool:
        """Whether it writes reasoning that is a field of the message."""
        answer = {"role": "assistant", "content": "Hi", **dict.fromkeys(REASONING, STAND_IN)}
        return STAND_IN in self._written([QUESTION, answer])

    @functools.cached_property
    def form_of_calls(self) -> tuple[bool, str | None] | None:
        """Whether arguments are handed over as JSON text, and the content when there is none.

        None: the template writes no tool calls.
        """
        for as_text, content in ((False, ""), (True, ""), (False, None), (True, None)):
            given: Any = {"key": STAND_IN, "on": True}
            written = self._written(
                [QUESTION, call(json.dumps(given) if as_text else given, content)]
            )
            spelled = "'key'" not in written and '\\"key' not in written and "True" not in written
            if "probe" in written and "key" in written and STAND_IN in written and spelled:
                return as_text, content
        return None

    @functools.cached_property
    def takes_any_id(self) -> bool:
        """Whether a call may have whatever id the data gives it (Mistral's asks for nine letters
        and digits)."""
        if self.form_of_calls is None:
            return True
        tried = self.call_with("call_1")
        return STAND_IN in self._written([QUESTION, tried])

    @functools.cached_property
    def tools_come_first(self) -> bool:
        """Whether tools are written before the first message (Mistral's: before the last one)."""
        answer = {"role": "assistant", "content": "Hi"}
        first = {"role": "user", "content": STAND_IN}
        written = self._written([first, answer, QUESTION])
        return written.rfind("probe") < written.find(STAND_IN)

    @functools.cached_property
    def call(self) -> dict[str, Any] | None:
        """A message with a tool call as the template takes it, `STAND_IN` as its argument."""
        return None if self.form_of_calls is None else self.call_with(ID.format(1))

    def call_with(self, identifier: str) -> dict[str, Any]:
        """The same with an id."""
        as_text, content = self.form_of_calls or (False, "")
        given = {"key": STAND_IN}
        return call(json.dumps(given) if as_text else given, content, identifier)

    def arguments(self, arguments: dict[str, Any]) -> Any:
        """The arguments of a call as the template takes them."""
        if self.form_of_calls is not None and self.form_of_calls[0]:
            return json.dumps(arguments, ensure_ascii=False)
        return arguments

    def _written(self, messages: Messages) -> str:
        try:
            return self.text.write(messages, self.variables)
        except BadInput:
            return ""


def thought(content: str) -> tuple[str, str]:
    """The reasoning that an answer's text begins with, and the rest: ("", content) without any."""
    if "</think>" not in content:
        return "", content
    if found := THOUGHT.match(content):
        return found[1], found[2]
    if found := OPENED.match(content):
        return content[: found.start(1)].rstrip("\n").removesuffix("</think>").strip("\n"), found[1]
    return "", content
