"""A conversation as one chat template takes it.

Between the conversation that a reader hands over, which is the same for all templates, and the
template with its habits: what somebody typed cannot become a control token, and no word is lost
because a template calls it by another name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sft.errors import BadInput
from sft.rendering.control_tokens import BREAK, broken, check_free_of_break
from sft.rendering.conversations import Conversation, Messages
from sft.rendering.ends import Ends
from sft.rendering.habits import ID, TAGS, Habits, thought
from sft.rendering.template_text import REASONING

MARKER_TAKEN_OFF = "an end of turn that already stood behind the words was taken off"
OWN = frozenset({"messages", "add_generation_prompt", "tokenize", "tools"})
"""What the renderer itself hands to the template."""
OF_ITS_OWN = frozenset({"role", "content", "tool_calls", *REASONING})
"""Fields of a message with a form of their own; in others only control tokens are looked for."""
IDS = "ids of tool calls are numbered as the chat template asks for them"
AS_TEXT = "control tokens within the words are trained as text"


@dataclass
class Prepared:
    """What the template is given, beside what it has to write."""

    messages: Messages
    """As this template takes them."""
    said: Messages
    """The same as any template has it: words apart from their reasoning, arguments as objects."""
    variables: dict[str, Any] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    inline: dict[int, str] = field(default_factory=dict)
    """By message: answers whose text begins with their reasoning, as it stands in the data."""

    def reasoning(self, index: int) -> str:
        """Of message `index`; "" if it has none."""
        found: str = self.said[index].get("reasoning_content") or ""
        return found


class Preparing:
    """Prepares conversations for a template; `control` is one of `CONTROL_TOKENS`."""

    def __init__(self, habits: Habits, ends: Ends, control: str):
        self.habits, self.ends, self.control = habits, ends, control
        self._tokens = ends.marker
        self._unusual = re.compile(f"{self._tokens.pattern}|{TAGS.pattern}|{BREAK}")

    def prepared(self, conversation: Conversation) -> Prepared:
        """Raises `BadInput` that names the message."""
        found = Prepared(conversation.messages, conversation.messages)
        if conversation.tools:
            found.variables["tools"] = self._deep(conversation.tools, "the tools", found)
        if own := OWN.intersection(conversation.template):
            raise BadInput(
                f"chat_template_kwargs: '{min(own)}' is not an argument that a row can give; take "
                "it out"
            )
        found.variables |= self._deep(conversation.template, "chat_template_kwargs", found)
        if any(map(self._needs_work, conversation.messages)):
            found.said = [
                self._said(message, index, found)
                for index, message in enumerate(conversation.messages)
            ]
            self._give_ids(found)
            found.messages = [
                self.for_template(message, found.inline.get(index))
                for index, message in enumerate(found.said)
            ]
        return found

    def _needs_work(self, message: dict[str, Any]) -> bool:
        """Whether a message is anything but a role, and text without a tag or control token."""
        if len(message) > 2 or message["role"] == "developer":
            return True
        return bool(self._unusual.search(message["content"]))

    def _said(self, message: dict[str, Any], index: int, found: Prepared) -> dict[str, Any]:
        where = f"message {index + 1}"
        said = {
            name: value if name in OF_ITS_OWN else self._deep(value, where, found)
            for name, value in message.items()
            if value is not None
        }
        if said["role"] != "assistant":
            said["content"] = self._text(said["content"], where, found)
            return said
        words, reasoning = self._without_end(said["content"], found), _reasoning(said)
        if self.habits.knows_thinking and not reasoning:
            inline = words
            reasoning, words = thought(words)
            if words != inline:
                block, rest = inline[: len(inline) - len(words)], self._text(words, where, found)
                # Only the first block is reasoning: further tags are words.
                rest = broken(TAGS, rest) if self.habits.cuts_at_tags else rest
                found.inline[index] = self._text(block, where, found) + rest
        said["content"] = self._text(words, where, found)
        if self.habits.cuts_at_tags:
            said["content"] = broken(TAGS, said["content"])
        for name in REASONING:
            said.pop(name, None)
        if reasoning:
            said["reasoning_content"] = self._text(reasoning, where, found)
        if calls := said.get("tool_calls"):
            said["tool_calls"] = [self._deep(call, where, found) for call in calls]
        return said

    def for_template(self, said: dict[str, Any], inline: str | None) -> dict[str, Any]:
        """A message in the form that the template reads."""
        made = dict(said)
        if made["role"] == "developer" and not self.habits.knows_developer:
            made["role"] = "system"
        reasoning = _reasoning(said)
        if self.habits.takes_reasoning:
            if reasoning:
                made |= dict.fromkeys(REASONING, reasoning)
        elif inline:
            made["content"] = inline
        elif reasoning and self.habits.knows_thinking:
            made["content"] = f"<think>\n{reasoning}\n</think>\n\n{said['content']}"
        if calls := said.get("tool_calls"):
            made["tool_calls"] = [self._call(call) for call in calls]
            if not made["content"] and self.habits.form_of_calls is not None:
                made["content"] = self.habits.form_of_calls[1]
        return made

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        arguments = self.habits.arguments(function.get("arguments") or {})
        return {"type": "function", **call, "function": {**function, "arguments": arguments}}

    def _give_ids(self, found: Prepared) -> None:
        """Number the calls that have no id, or none that the template takes; and their results,
        which name the call that they answer, or else answer the calls in their order."""
        numbered: dict[str | None, str] = {}
        numbers = itertools.count(1)
        waiting: list[str] = []
        for message in found.said:
            for call in message.get("tool_calls") or ():
                given = call.get("id")
                if given is None or not self.habits.takes_any_id:
                    call["id"] = ID.format(next(numbers))
                    if given is not None:
                        found.notes.add(IDS)
                numbered[given if given is not None else call["id"]] = call["id"]
                waiting.append(call["id"])
            if message["role"] == "tool":
                known = numbered.get(message.get("tool_call_id"))
                answered = known if known in waiting else next(iter(waiting), None)
                if answered is not None:
                    waiting.remove(answered)
                    message["tool_call_id"] = answered

    def _without_end(self, content: str, found: Prepared) -> str:
        """An answer without the marker that ends its turn, if the data has it already."""
        if self.control == "as_tokens" or not self._tokens.search(content):
            return content
        for stop in self.ends.stops:
            if self._tokens.fullmatch(stop) and content.rstrip().endswith(stop):
                found.notes.add(MARKER_TAKEN_OFF)
                return content.rstrip().removesuffix(stop)
        return content

    def _text(self, text: str, where: str, found: Prepared) -> str:
        """`text` with no control token in it, as the setting says."""
        check_free_of_break(text, where)
        if self.control == "as_tokens" or not (token := self._tokens.search(text)):
            return text
        if self.control == "refuse":
            raise BadInput(
                f"{where}: holds the control token {token[0]!r}; take it out, or set "
                "dataset.control_tokens=as_text"
            )
        found.notes.add(AS_TEXT)
        return broken(self._tokens, text)

    def raw(self, text: str) -> tuple[str, set[str]]:
        """Raw text with no control token in it, as the setting says; notes. Raises `BadInput`."""
        found = Prepared([], [])
        return self._text(text, "the text", found), found.notes

    def _deep(self, value: Any, where: str, found: Prepared) -> Any:
        """`_text` of every text within lists and objects."""
        return _map_texts(value, lambda text: self._text(text, where, found))


def _reasoning(message: dict[str, Any]) -> str:
    return next((str(message[name]) for name in REASONING if message.get(name)), "")


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {change(name): _map_texts(item, change) for name, item in value.items()}
    return value
