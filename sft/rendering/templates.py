"""Rendering with a chat template, exactly as the service will prompt the model.

A trained answer stands behind the tokens of its own prompt: what the template writes for the
messages before it with `add_generation_prompt`. Most templates still write an answer the same way
once more messages follow; then one sequence serves all answers of a conversation. Some write it in
another way (Qwen3 drops its thinking): such an answer gets a sequence of its own.
"""

from __future__ import annotations

import datetime
import functools
import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sft.errors import BadInput
from sft.rendering.base import Rendered
from sft.rendering.control_tokens import any_of
from sft.rendering.control_tokens import control_tokens as known_control_tokens
from sft.rendering.conversations import Conversation, Messages
from sft.rendering.encoding import Encoder
from sft.rendering.ends import Ends
from sft.rendering.habits import QUESTION, Habits
from sft.rendering.prepared import Preparing
from sft.rendering.targets import Finder, Target, Targets
from sft.rendering.template_text import TemplateText
from sft.rendering.token_bytes import TokenBytes


class TemplateRenderer:
    """A `Renderer` over a tokenizer and its chat template (or `template` in place of it).

    Args:
        kwargs: handed to the template.
        control_tokens: what becomes of control tokens within the words (`CONTROL_TOKENS`).
        lost_words: train what the template writes, even if it leaves words out.
        date: the day that a template writes as today's, as `2026-11-30`; None: today.

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
        habits = Habits(self.template)
        self.ends = Ends(habits, any_of(known_control_tokens(tokenizer)))
        self.preparing = Preparing(habits, self.ends, control_tokens)
        self.finder = Finder(self.template, self.ends, self.preparing, lost_words)
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
        if train_on_what != "all_tokens" and any(_has_turns(one) for one in conversations):
            _ = self.ends.of_answers  # a template without them is no fault of a row
        with _no_collecting():
            found = [self._targets(Conversation.of(one), train_on_what) for one in conversations]
            try:
                self._encode([t for one in found if isinstance(one, Targets) for t in one.listed])
            except BadInput:  # one of them cannot be encoded
                return [self._alone(one) for one in found]
            return [self._rendered(one) if isinstance(one, Targets) else one for one in found]

    def _alone(self, found: Targets | BadInput) -> list[Rendered] | BadInput:
        if isinstance(found, BadInput):
            return found
        try:
            self._encode(found.listed)
        except BadInput as error:
            return error
        return self._rendered(found)

    def _targets(self, conversation: Conversation, train_on_what: str) -> Targets | BadInput:
        try:
            if conversation.text is not None:
                return self._raw(conversation.text)
            return self.finder.targets(conversation, train_on_what)
        except BadInput as error:
            return error

    def _raw(self, text: str) -> Targets:
        """Raw text: all of it is trained, with the token that ends it."""
        begin, end = beginning(self.tokenizer), self.tokenizer.eos_token or ""
        text = text.removeprefix(begin).removesuffix(end)  # what stands there already stands once
        words, notes = self.preparing.raw(text)
        return Targets([Target(0, "", begin + words + end, False)], every=True, notes=notes)

    def _encode(self, targets: list[Target]) -> None:
        texts = {text: None for target in targets for text in (target.before, target.text)}
        tokens = dict(zip(texts, self.encoder.encode(list(texts)), strict=True))
        for target in targets:
            before, whole = tokens[target.before], tokens[target.text]
            if target.is_answer and whole[: len(before)] != before:
                # A token would reach over the border; the model is sampled from the border on.
                whole = before + self.encoder.encode_behind(target.words)
            target.tokens_before, target.tokens = before, whole

    def _rendered(self, found: Targets) -> list[Rendered]:
        """The fewest sequences in which each target is trained once, in order.

        A sequence ends with a target and holds every earlier one that stands in it as it should.
        Going from the last target to the first and making a sequence for each that no later one
        holds gives the fewest: what holds a target also holds all that its own sequence does.
        """
        sequences: list[Rendered] = []
        notes = tuple(sorted(found.notes))
        left = found.listed[::-1]
        while left:
            last = left[0]
            trained = [found.every] * len(last.tokens)
            later = []
            for target in left:
                span = _span(target, last)
                if span is None:
                    later.append(target)
                    continue
                start, end = span
                trained[start:end] = [True] * (end - start)
            sizes = self.token_bytes.count(last.tokens)
            sequences.append(Rendered(list(last.tokens), trained, sizes, notes))
            left = later
        return sequences[::-1]

    def generation_prompt(self, conversation: Conversation | Messages) -> list[int]:
        chat = self.preparing.prepared(Conversation.of(conversation))
        text = self.template.write(chat.messages, chat.variables, prompt=True)
        return self.encoder.encode([text])[0]

    def question(self, prompt: list[int]) -> str | None:
        """The user's words that the tokens of a prompt end with; None if they end otherwise.

        "… " before them stands for earlier turns.
        """
        try:
            before, after = self.template.place([QUESTION], 0, prompt=True)
        except BadInput:
            return None
        turn = before.removeprefix(self.tokenizer.bos_token or "")
        turn = turn.rpartition(self.ends.of_answers["user"].text)[2].lstrip()  # no system turn
        markers = list(self.ends.marker.finditer(before))
        header = turn or (before[markers[-1].start() :] if markers else "")
        text = self.tokenizer.decode(prompt, clean_up_tokenization_spaces=False)
        if not header or not after or not text.endswith(after):
            return None
        earlier, found, words = text[: -len(after)].rpartition(header)
        if not found:
            return None
        return ("… " if header in earlier else "") + words.strip()

    def stop_sequences(self) -> list[int] | list[str]:
        stops = self.ends.stops
        if texts := [stop for stop in stops if not self.ends.marker.fullmatch(stop)]:
            return texts
        ids = {self.tokenizer.eos_token_id, *self.tokenizer.convert_tokens_to_ids(stops)}
        return sorted(stop for stop in ids if stop is not None)

    def fingerprint(self) -> str:
        """A digest of the template, its arguments, the tokenizer and the settings, and of the day
        if the template writes one."""
        template = self.template.template
        day = self.template.date or datetime.date.today()
        parts = [
            template,
            self.template.kwargs,
            self.tokenizer.special_tokens_map,
            _tables(self.tokenizer, len(self.tokenizer)),
            day.isoformat() if self.template.writes_the_date else None,
            self.preparing.control,
            self.finder.lost_words,
        ]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.lru_cache(maxsize=16)
def _tables(tokenizer: Any, vocabulary: int) -> str:
    """A digest of the tokenizer's tables, which take a tenth of a second to write out; or, if it
    has none to show, its name. `vocabulary` is its size: tokens may be added to it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.name_or_path
    backend.no_truncation()  # what the last call left set is no part of the tokenizer
    backend.no_padding()
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def beginning(tokenizer: Any) -> str:
    """The token that the tokenizer itself begins every text with; "" if there is none."""
    first = tokenizer("")["input_ids"][:1]
    return tokenizer.bos_token if first and first == [tokenizer.bos_token_id] else ""


def _has_turns(conversation: Conversation | Messages) -> bool:
    return not isinstance(conversation, Conversation) or conversation.text is None


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
