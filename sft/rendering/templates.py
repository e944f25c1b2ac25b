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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sft.rendering.base import Messages, Rendered
from sft.rendering.conversations import carries_loss
from sft.rendering.encoding import Encoder
from sft.rendering.template_text import TemplateText
from sft.rendering.token_bytes import TokenBytes


@dataclass
class Target:
    """A trained message: the text before it, and its own words with the end of its turn."""

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


class TemplateRenderer:
    """A `Renderer` over a tokenizer and its chat template (or `template` in place of it)."""

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        kwargs: dict[str, Any],
        stop: list[str] | None = None,
    ):
        self.tokenizer = tokenizer
        self.template = TemplateText(tokenizer, template, kwargs)
        self.encoder = Encoder(tokenizer)
        self.token_bytes = TokenBytes(tokenizer)
        self._stop = stop

    def render(self, messages: Messages, train_on_what: str) -> list[Rendered]:
        return self.render_batch([messages], train_on_what)[0]

    def render_batch(
        self, conversations: list[Messages], train_on_what: str
    ) -> list[list[Rendered]]:
        with _no_collecting():
            targets = [self._targets(messages, train_on_what) for messages in conversations]
            self._encode([target for group in targets for target in group])
            return [self._sequences(group, train_on_what == "all_tokens") for group in targets]

    def _encode(self, targets: list[Target]) -> None:
        texts = {text: None for target in targets for text in (target.before, target.text)}
        tokens = dict(zip(texts, self.encoder.encode(list(texts)), strict=True))
        for target in targets:
            before, whole = tokens[target.before], tokens[target.text]
            if target.is_answer and whole[: len(before)] != before:
                # A token would reach over the border; the model is sampled from the border on.
                whole = before + self.encoder.encode_behind(target.words)
            target.tokens_before, target.tokens = before, whole

    def _targets(self, messages: Messages, train_on_what: str) -> list[Target]:
        """What is trained of a conversation, in order. Raises `BadInput`."""
        if train_on_what == "all_tokens":
            return [Target("", self.template.write(messages), False)]
        targets = []
        for index, yes in enumerate(carries_loss(messages, train_on_what)):
            if not yes:
                continue
            if messages[index]["role"] == "assistant":
                prompt = self.template.prompt(messages, index)
                words = self.template.answer(messages, index, prompt)
                targets.append(Target(prompt, words, True))
            elif found := self.template.words(messages, index):
                targets.append(Target(*found, False))
        return targets

    def _sequences(self, targets: list[Target], every: bool) -> list[Rendered]:
        """The fewest sequences in which each target is trained once, in order.

        A sequence ends with a target and holds every earlier one that stands in it as it should.
        Going from the last target to the first and making a sequence for each that no later one
        holds gives the fewest: what holds a target also holds all that its own sequence does.
        """
        sequences: list[Rendered] = []
        left = targets[::-1]
        while left:
            last = left[0]
            trained = [every] * len(last.tokens)
            later = []
            for target in left:
                span = _span(target, last)
                if span is None:
                    later.append(target)
                    continue
                start, end = span
                trained[start:end] = [True] * (end - start)
            sizes = self.token_bytes.count(last.tokens)
            sequences.append(Rendered(list(last.tokens), trained, sizes))
            left = later
        return sequences[::-1]

    def generation_prompt(self, messages: Messages) -> list[int]:
        return self.encoder.encode([self.template.write(messages, prompt=True)])[0]

    def stop_sequences(self) -> list[int] | list[str]:
        if self._stop is not None:
            return list(self._stop)
        stops = {self.tokenizer.eos_token_id}
        if end := self.template.end_of_turn:
            stops.add(self.encoder.encode([end])[0][-1])
        return sorted(stop for stop in stops if stop is not None)

    def fingerprint(self) -> str:
        """A digest of the template, its arguments and the tokenizer, and of today's date if the
        template writes it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()  # what the last call left set is no part of the tokenizer
            backend.no_padding()
        template = self.template.template
        today = datetime.date.today().isoformat() if "strftime_now" in template else None
        parts = [
            template,
            self.template.kwargs,
            self.tokenizer.special_tokens_map,
            backend.to_str() if backend is not None else self.tokenizer.name_or_path,
            today,
        ]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Without garbage collection, which would go through a batch's many lists again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
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
