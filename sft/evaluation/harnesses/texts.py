"""The tokens of a prompt and of a text behind it, as lm-evaluation-harness scores them.

Its rules (`TemplateLM` of lm_eval/api/model.py): a prompt and its continuation are encoded as one
text; white space that ends the prompt counts as the continuation's; where nothing stands before the
text, the tokenizer's first token does. Where a token of the whole would reach over the border, the
harness loses the rest of it; here the continuation is then encoded by itself, as it is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sft.rendering.base import Renderer
from sft.rendering.conversations import Messages
from sft.rendering.encoding import Encoder


@dataclass(frozen=True)
class Scored:
    """A sequence whose last tokens are scored."""

    tokens: list[int]
    start: int
    """The first token that is scored."""


class Texts:
    """Encodes text alone, or behind the messages of a chat."""

    def __init__(self, tokenizer: Any, renderer: Renderer):
        self.tokenizer, self.renderer = tokenizer, renderer
        self.encoder = Encoder(tokenizer)
        first = tokenizer.bos_token_id
        self.first: int = tokenizer.eos_token_id if first is None else first

    def prompt(self, messages: Messages | None, behind: str) -> list[int]:
        """What an answer is sampled after: a prompt in messages, and the text `behind` them.

        Raises `BadInput` if the messages cannot be written.
        """
        if messages is None:
            return self._alone(behind)
        prompt = self.renderer.generation_prompt(messages)
        return prompt + self.encoder.encode_behind(behind) if behind else prompt

    def continuation(self, messages: Messages | None, behind: str, text: str) -> Scored:
        """`text` behind a prompt. Raises `BadInput` if the messages cannot be written."""
        before = behind.rstrip()
        if messages is None and not before:
            tokens = self._bare(behind + text)
            return Scored(tokens if tokens[:1] == [self.first] else [self.first, *tokens], 1)
        prompt = self.prompt(messages, before)
        whole = self.prompt(messages, behind + text)
        if whole[: len(prompt)] != prompt:
            whole = prompt + self.encoder.encode_behind(behind[len(before) :] + text)
        return Scored(whole, len(prompt))

    def windows(self, text: str, max_length: int) -> Iterator[Scored]:
        """All of `text`, in sequences of `max_length` tokens at most; each token is scored once.

        Only the last window may have more than one token before what it scores. A token that the
        tokenizer begins every text with is no text: unlike in the harness's own models, it is not
        scored.
        """
        tokens = [self.first, *self._bare(text)]
        for start in range(1, len(tokens), max_length - 1):
            end = min(start + max_length - 1, len(tokens))
            begin = max(0, end - max_length)
            yield Scored(tokens[begin:end], start - begin)

    def _alone(self, text: str) -> list[int]:
        """Text as the tokenizer writes it, with its first token if that is its habit."""
        written = text.startswith(self.tokenizer.decode([self.first]))
        return self.tokenizer.encode(text, add_special_tokens=not written)

    def _bare(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
