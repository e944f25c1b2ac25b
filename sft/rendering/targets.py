"""What of a conversation is trained: each message behind its prompt, and no word of it lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sft.errors import BadInput
from sft.rendering.answers import Answers
from sft.rendering.conversations import Conversation, carries_loss
from sft.rendering.ends import Ends
from sft.rendering.habits import QUESTION
from sft.rendering.missing.lost_words import (
    NAMES,
    SCHEMAS,
    UNSURE,
    WHITE_SPACE,
    WITHOUT,
    Lost,
    are_frequent,
    are_plain,
    losses,
    losses_of_tools,
    names_are_written,
    schemas_are_whole,
    stand_apart,
    tools_are_frequent,
)
from sft.rendering.missing.marks import Marked
from sft.rendering.prepared import AS_TEXT, Prepared, Preparing
from sft.rendering.template_text import Refused, TemplateText

Tools = list[dict[str, Any]]
THOUGHT = "reasoning_content"
ESCAPED = "\\ufdd0"
"""`BREAK`, as Python and JSON write it who keep to ASCII."""
TRAINABLE = "'trainable' is read with train_on_what=customized alone"
EMPTY = "of an empty answer the end of its turn alone is trained"
MOVED = "the chat template puts the words beside a tool call elsewhere than those of an answer"
BEHIND_THE_LAST = "messages behind the last trained one are not used"


@dataclass
class Target:
    """A trained message: the text before it, and its own words with the end of its turn."""

    index: int
    """Of the message."""
    before: str
    words: str
    is_answer: bool
    """Sampled behind exactly the tokens of `before`; other messages are only read."""
    tokens_before: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Those of `text`, the ones before it included."""

    @property
    def text(self) -> str:
        return self.before + self.words


@dataclass
class Targets:
    """Those of one conversation, in its order."""

    listed: list[Target]
    every: bool = False
    """All tokens are trained, those between the targets too."""
    notes: set[str] = field(default_factory=set)


class Finder:
    """Finds the targets of conversations in what a chat template writes.

    With `lost_words`, what the template leaves out is no reason to refuse a conversation.
    """

    def __init__(self, text: TemplateText, ends: Ends, preparing: Preparing, lost_words: bool):
        self.text, self.preparing, self.lost_words = text, preparing, lost_words
        self.answers = Answers(text, ends, empty_blocks=lost_words)

    def targets(self, conversation: Conversation, train_on_what: str) -> Targets:
        """Raises `BadInput` that names the message."""
        chat = self.preparing.prepared(conversation)
        try:
            found = self._found(chat, conversation, train_on_what)
        except Refused as error:
            raise BadInput(
                f"{error}; change the row, take another model.renderer or "
                "model.chat_template_kwargs, or set dataset.on_lost=leave_out"
            ) from error
        if AS_TEXT in found.notes and any(ESCAPED in target.text for target in found.listed):
            raise BadInput(
                "the chat template escapes characters, so that a control token in the tools or the "
                "arguments of a call cannot be written as text; take it out, or set "
                "dataset.control_tokens=as_tokens"
            )
        if found.listed:
            self._check(found, chat, conversation, train_on_what)
        return found

    def _found(self, chat: Prepared, conversation: Conversation, train_on_what: str) -> Targets:
        messages = chat.messages
        if train_on_what == "all_tokens":
            whole = self.answers.ends.closed(
                self.text.write(messages, chat.variables), messages[-1]
            )
            return Targets([Target(len(messages) - 1, "", whole, False)], True, chat.notes)
        found = Targets([], notes=chat.notes)
        if train_on_what != "customized" and any(m.get("trainable") is False for m in messages):
            found.notes.add(TRAINABLE)
        for index, yes in enumerate(carries_loss(conversation.messages, train_on_what)):
            if not yes:
                continue
            try:
                target = self._target(chat, index)
            except Refused as error:
                raise Refused(f"{self._refused(chat, index)}: {error}") from error
            except BadInput as error:
                where = f"message {index + 1}: "
                if str(error).startswith(where):
                    raise
                raise BadInput(f"{where}{error}") from error
            if target is not None:
                found.listed.append(target)
                found.notes |= self._notes(target, chat)
        return found

    def _refused(self, chat: Prepared, index: int) -> str:
        """Who it is that the template refuses: message `index`, or the tools whatever is said."""
        try:
            self.text.write([QUESTION], chat.variables)
        except Refused:
            if chat.variables.get("tools"):
                return "the tools"
        return f"message {index + 1}"

    def _target(self, chat: Prepared, index: int) -> Target | None:
        """Message `index`; None if it has no words. Raises `Lost` if the template has none."""
        if chat.messages[index]["role"] == "assistant":
            prompt = self.answers.prompt(chat, index)
            words = self.answers.answer(chat, index, prompt)
            if self.preparing.control != "as_tokens":
                self.answers.ends.check_once(words)
            return Target(index, prompt, words, True)
        if found := self.answers.words(chat, index):
            return Target(index, *found, False)
        if (words := chat.said[index]["content"]).strip():
            lost = Lost(f"message {index + 1}", "its words", words)
            if not self.lost_words:
                raise lost
            chat.notes.add(WITHOUT.format(lost.kind))
        return None

    def _notes(self, target: Target, chat: Prepared) -> set[str]:
        said = chat.said[target.index]
        notes = set()
        if target.is_answer:
            if not any(map(said.get, ("content", "reasoning_content", "tool_calls"))):
                notes.add(EMPTY)
            if self.answers.moves_words(chat, target.index, target.words):
                notes.add(MOVED)
        return notes

    def _check(self, found: Targets, chat: Prepared, conversation: Conversation, what: str) -> None:
        """Raises `Lost` if a word of the conversation is neither trained nor context.

        If the user wants such rows to be trained, it is noted instead.
        """
        last, tools = found.listed[-1], chat.variables.get("tools") or []
        if last.index + 1 < len(chat.said):
            found.notes.add(BEHIND_THE_LAST)
        exact = all(
            said.get(name, "") in target.words
            for target in found.listed
            for said in [chat.said[target.index]]
            for name in ("content", THOUGHT)
        )
        if (
            exact
            and not tools
            and are_plain(chat.said[: last.index + 1], last.text, self.text.frame)
        ):
            return
        lost = list(self._not_there(found, chat, tools))
        if not lost and self._is_doubtful(found, chat, tools):
            lost = self._not_marked(chat, conversation, what)
        if lost and not self.lost_words:
            raise lost[0]
        found.notes |= {WITHOUT.format(one.kind) for one in lost}
        if not exact and not any(one.kind in ("words", "reasoning") for one in lost):
            found.notes.add(WHITE_SPACE)
        if not schemas_are_whole(tools, last.text):
            found.notes.add(SCHEMAS)
        if not names_are_written(chat.said[: last.index + 1], last.text):
            found.notes.add(NAMES)

    def _not_there(self, found: Targets, chat: Prepared, tools: Tools) -> Iterator[Lost]:
        """What cannot be found at all."""
        last = found.listed[-1]
        trained = {} if found.every else {target.index: target for target in found.listed}
        for index, said in enumerate(chat.said[: last.index + 1]):
            if target := trained.get(index):
                yield from losses(said, index + 1, target.words, thoughts=True)
            if target is not last:
                yield from losses(said, index + 1, last.text, thoughts=found.every)
        yield from losses_of_tools(tools, last.text)

    def _is_doubtful(self, found: Targets, chat: Prepared, tools: Tools) -> bool:
        """Whether something that was found may be another thing that says the same."""
        last, frame = found.listed[-1], self.text.frame
        said = chat.said[: last.index + 1]
        if tools:
            if not self.preparing.habits.tools_come_first:
                frame += json.dumps(tools, ensure_ascii=False)
            if tools_are_frequent(tools, said, frame):
                return True
        if are_frequent(said, frame) or not stand_apart(said, last.text, thoughts=found.every):
            return True
        if found.every:
            return False
        return not all(
            stand_apart([chat.said[target.index]], target.words, thoughts=True)
            for target in found.listed
            if len(chat.said[target.index]) > 2
        )

    def _not_marked(self, chat: Prepared, conversation: Conversation, what: str) -> list[Lost]:
        """What the template does not write of the conversation with marks; if it refuses them,
        that nobody can be sure is noted."""
        marked = Marked(chat.said, chat.variables.get("tools") or [])
        messages = [self.preparing.for_template(said, None) for said in marked.said]
        variables = chat.variables | ({"tools": marked.tools} if marked.tools else {})
        try:
            found = self._found(Prepared(messages, marked.said, variables), conversation, what)
        except BadInput:
            chat.notes.add(UNSURE)
            return []
        last = found.listed[-1]
        trained = {} if found.every else {target.index: target for target in found.listed}
        lost: list[Lost] = []
        for index in range(last.index + 1):
            if target := trained.get(index):
                lost += marked.missing(index, target.words, thoughts=True)
            if target is not last:
                lost += marked.missing(index, last.text, thoughts=found.every)
        return lost + marked.missing(None, last.text)
