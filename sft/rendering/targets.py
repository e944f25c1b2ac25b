"""What of a conversation is trained: each message behind its prompt, and no word of it lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from sft.errors import BadInput
from sft.rendering.answers import Answers
from sft.rendering.conversations import Conversation, carries_loss
from sft.rendering.ends import Ends
from sft.rendering.lost_words import (
    SCHEMAS,
    WHAT_TO_DO,
    WHITE_SPACE,
    Lost,
    check_context,
    check_trained,
    schemas_are_whole,
)
from sft.rendering.prepared import Prepared, Preparing
from sft.rendering.template_text import Refused, TemplateText

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
        if found.listed and not self.lost_words:
            self._check(found, chat)
        return found

    def _found(self, chat: Prepared, conversation: Conversation, train_on_what: str) -> Targets:
        messages = chat.messages
        if train_on_what == "all_tokens":
            whole = self.text.write(messages, chat.variables)
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
                raise Refused(f"message {index + 1}: {error}") from error
            if target is not None:
                found.listed.append(target)
                found.notes |= self._notes(target, chat)
        return found

    def _target(self, chat: Prepared, index: int) -> Target | None:
        """Message `index`; None if it has no words. Raises `Lost` if the template has none."""
        if chat.messages[index]["role"] == "assistant":
            prompt = self.answers.prompt(chat, index)
            return Target(index, prompt, self.answers.answer(chat, index, prompt), True)
        if found := self.answers.words(chat, index):
            return Target(index, *found, False)
        if chat.said[index]["content"].strip() and not self.lost_words:
            raise Lost(f"message {index + 1}: the chat template leaves it out; {WHAT_TO_DO}")
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

    def _check(self, found: Targets, chat: Prepared) -> None:
        """Raises `Lost` if a word of the conversation is neither trained nor context."""
        last = found.listed[-1]
        if found.every:  # in one text: each message is looked for in all of it
            within = [
                (i, {**said, "tool_calls": None}, last.text) for i, said in enumerate(chat.said)
            ]
        else:
            within = [(t.index, chat.said[t.index], t.words) for t in found.listed]
        if not all([check_trained(said, index + 1, text) for index, said, text in within]):
            found.notes.add(WHITE_SPACE)
        context = chat.said if found.every else chat.said[: last.index]
        tools = chat.variables.get("tools") or []
        check_context(context, tools, last.text)
        if not schemas_are_whole(tools, last.text):
            found.notes.add(SCHEMAS)
        if last.index + 1 < len(chat.said):
            found.notes.add(BEHIND_THE_LAST)
