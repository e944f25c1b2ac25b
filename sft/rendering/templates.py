"""Rendering with a chat template, exactly as the service will prompt the model.

A trained answer stands behind the tokens of its own prompt: what the template writes for the
messages before it with `add_generation_prompt`. Most templates still write an answer the same way
once more messages follow; then one sequence serves all answers of a conversation. Some write it in
another way (Qwen3 drops its thinking): such an answer gets a sequence of its own.
"""

from __future__ import annotations

import datetime
import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sft.errors import BadInput
from sft.rendering.answers import Answers
from sft.rendering.base import Rendered
from sft.rendering.control_tokens import any_of
from sft.rendering.control_tokens import control_tokens as known_control_tokens
from sft.rendering.conversations import Conversation, Messages, carries_loss
from sft.rendering.encoding import Encoder
from sft.rendering.ends import Ends
from sft.rendering.habits import Habits
from sft.rendering.lost_words import (
    WHAT_TO_DO,
    WHITE_SPACE,
    Lost,
    check_context,
    check_trained,
)
from sft.rendering.prepared import Prepared, Preparing
from sft.rendering.template_text import Refused, TemplateText
from sft.rendering.token_bytes import TokenBytes

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
class Plan:
    """What is trained of a conversation, in its order."""

    targets: list[Target]
    every: bool = False
    """All tokens are trained, those between the targets too."""
    notes: set[str] = field(default_factory=set)


class TemplateRenderer:
    """A `Renderer` over a tokenizer and its chat template (or `template` in place of it).

    Args:
        kwargs: handed to the template.
        control_tokens: what becomes of control tokens within the words (`CONTROL_TOKENS`).
        lost_words: train what the template writes, even if it leaves words out.
        date: the day that a template writes as today's, as `2026-11-30`; None: today.

    Raises `BadInput` if the template does not end its turns.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        kwargs: dict[str, Any],
        *,
        control_tokens: str = "as_text",
        lost_words: bool = False,
        date: str | None = None,
    ):
        self.tokenizer = tokenizer
        self.template = TemplateText(tokenizer, template, kwargs, date)
        self.lost_words = lost_words
        habits = Habits(self.template)
        self.ends = Ends(habits, any_of(known_control_tokens(tokenizer)))
        self.preparing = Preparing(tokenizer, habits, self.ends, control_tokens)
        self.answers = Answers(self.template, self.ends, empty_blocks=lost_words)
        self.encoder = Encoder(tokenizer)
        self.token_bytes = TokenBytes(tokenizer)

    def render(self, conversation: Conversation | Messages, train_on_what: str) -> list[Rendered]:
        found = self.render_batch([conversation], train_on_what)[0]
        if isinstance(found, BadInput):
            raise found
        return found

    def render_batch(
        self, conversations: Sequence[Conversation | Messages], train_on_what: str
    ) -> list[list[Rendered] | BadInput]:
        with _no_collecting():
            planned = [self._planned(Conversation.of(one), train_on_what) for one in conversations]
            plans = [plan for plan in planned if isinstance(plan, Plan)]
            try:
                self._encode([target for plan in plans for target in plan.targets])
            except BadInput:  # one of them cannot be encoded
                return [self._alone(plan) for plan in planned]
            return [self._rendered(plan) if isinstance(plan, Plan) else plan for plan in planned]

    def _alone(self, plan: Plan | BadInput) -> list[Rendered] | BadInput:
        if isinstance(plan, BadInput):
            return plan
        try:
            self._encode(plan.targets)
        except BadInput as error:
            return error
        return self._rendered(plan)

    def _planned(self, conversation: Conversation, train_on_what: str) -> Plan | BadInput:
        try:
            if conversation.text is not None:
                return self._raw(conversation.text)
            chat = self.preparing.prepared(conversation)
            plan = self._plan(chat, conversation, train_on_what)
            if not self.lost_words:
                self._check(plan, chat)
            return plan
        except BadInput as error:
            return error

    def _raw(self, text: str) -> Plan:
        """Raw text: all of it is trained, with the token that ends it."""
        begin, end = beginning(self.tokenizer), self.tokenizer.eos_token or ""
        text = text.removeprefix(begin).removesuffix(end)  # what stands there already stands once
        words = begin + self.preparing.text(text) + end
        return Plan([Target(0, "", words, False)], every=True)

    def _plan(self, chat: Prepared, conversation: Conversation, train_on_what: str) -> Plan:
        messages = chat.messages
        if train_on_what == "all_tokens":
            text = self.template.write(messages, chat.variables)
            whole = Target(len(messages) - 1, "", text, False)
            return Plan([whole], every=True, notes=chat.notes)
        plan = Plan([], notes=chat.notes)
        if train_on_what != "customized" and any(m.get("trainable") is False for m in messages):
            plan.notes.add(TRAINABLE)
        for index, yes in enumerate(carries_loss(conversation.messages, train_on_what)):
            if not yes:
                continue
            if messages[index]["role"] == "assistant":
                plan.targets.append(self._answer(chat, index))
                if not any(
                    map(chat.said[index].get, ("content", "reasoning_content", "tool_calls"))
                ):
                    plan.notes.add(EMPTY)
                if self.answers.moves_words(chat, index, plan.targets[-1].words):
                    plan.notes.add(MOVED)
            elif found := self.answers.words(chat, index):
                plan.targets.append(Target(index, *found, False))
            elif messages[index]["content"].strip() and not self.lost_words:
                raise Lost(f"message {index + 1}: the chat template leaves it out; {WHAT_TO_DO}")
        return plan

    def _answer(self, chat: Prepared, index: int) -> Target:
        try:
            prompt = self.answers.prompt(chat, index)
            return Target(index, prompt, self.answers.answer(chat, index, prompt), True)
        except Refused as error:
            raise BadInput(
                f"message {index + 1}: {error}; change the row, take another model.renderer or "
                "model.chat_template_kwargs, or set dataset.on_lost=leave_out"
            ) from error

    def _check(self, plan: Plan, chat: Prepared) -> None:
        """Raises `Lost` if a word of the conversation is neither trained nor context."""
        if not plan.targets:
            return
        last = plan.targets[-1]
        for index, message in enumerate(chat.said if plan.every else ()):
            check_trained({**message, "tool_calls": None}, index + 1, last.text)
        for target in plan.targets if not plan.every else ():
            exact = check_trained(chat.said[target.index], target.index + 1, target.words)
            if not exact:
                plan.notes.add(WHITE_SPACE)
        context = chat.said if plan.every else chat.said[: last.index]
        check_context(context, chat.variables.get("tools") or [], last.text)
        if last.index + 1 < len(chat.said):
            plan.notes.add(BEHIND_THE_LAST)

    def _encode(self, targets: list[Target]) -> None:
        texts = {text: None for target in targets for text in (target.before, target.text)}
        tokens = dict(zip(texts, self.encoder.encode(list(texts)), strict=True))
        for target in targets:
            before, whole = tokens[target.before], tokens[target.text]
            if target.is_answer and whole[: len(before)] != before:
                # A token would reach over the border; the model is sampled from the border on.
                whole = before + self.encoder.encode_behind(target.words)
            target.tokens_before, target.tokens = before, whole

    def _rendered(self, plan: Plan) -> list[Rendered]:
        """The fewest sequences in which each target is trained once, in order.

        A sequence ends with a target and holds every earlier one that stands in it as it should.
        Going from the last target to the first and making a sequence for each that no later one
        holds gives the fewest: what holds a target also holds all that its own sequence does.
        """
        sequences: list[Rendered] = []
        left = plan.targets[::-1]
        while left:
            last = left[0]
            trained = [plan.every] * len(last.tokens)
            later = []
            for target in left:
                span = _span(target, last)
                if span is None:
                    later.append(target)
                    continue
                start, end = span
                trained[start:end] = [True] * (end - start)
            sizes = self.token_bytes.count(last.tokens)
            sequences.append(Rendered(list(last.tokens), trained, sizes, tuple(sorted(plan.notes))))
            left = later
        return sequences[::-1]

    def generation_prompt(self, conversation: Conversation | Messages) -> list[int]:
        chat = self.preparing.prepared(Conversation.of(conversation))
        text = self.template.write(chat.messages, chat.variables, prompt=True)
        return self.encoder.encode([text])[0]

    def stop_sequences(self) -> list[int] | list[str]:
        stops = self.ends.stops()
        if texts := [stop for stop in stops if not self.ends.marker.fullmatch(stop)]:
            return texts
        ids = {self.tokenizer.eos_token_id, *self.tokenizer.convert_tokens_to_ids(stops)}
        return sorted(stop for stop in ids if stop is not None)

    def fingerprint(self) -> str:
        """A digest of the template, its arguments, the tokenizer and the settings, and of the day
        if the template writes one."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()  # what the last call left set is no part of the tokenizer
            backend.no_padding()
        template = self.template.template
        day = self.template.date or datetime.date.today()
        parts = [
            template,
            self.template.kwargs,
            self.tokenizer.special_tokens_map,
            backend.to_str() if backend is not None else self.tokenizer.name_or_path,
            day.isoformat() if self.template.writes_the_date else None,
            self.preparing.control,
            self.lost_words,
        ]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def beginning(tokenizer: Any) -> str:
    """The token that the tokenizer itself begins every text with; "" if there is none."""
    first = tokenizer("")["input_ids"][:1]
    return tokenizer.bos_token if first and first == [tokenizer.bos_token_id] else ""


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Without garbage collection, which would go through a batch's many lists again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            # As old as the rest: or the first collection would go through all that was made.
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def _span(target: Target, last: Target) -> tuple[int, int] | None:
    """The tokens (start, end) of `target` in the sequence that ends with `last`.

    None if it does not stand there as it is to be trained.
    """
    if not last.text.startswith(target.text):
        return None
    before, whole = target.tokens_before, target.tokens
    if target.is_answer:
        return (len(before), len(whole)) if last.tokens[: len(whole)] == whole else None
    # A token that reaches over the border of words that are only read counts as theirs.
    end = _common(last.tokens, whole)
    return _common(last.tokens, before), end if end == len(whole) else end + 1


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for count, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return count
    return min(len(first), len(second))
