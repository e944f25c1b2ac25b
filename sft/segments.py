"""Tokenising texts that share most of their parts.

A tokenizer cuts a text at its added tokens (`<|im_start|>` and the like) before anything else and
tokenises what lies between on its own. The prompts of one conversation repeat each other, and all
conversations repeat headers and system prompts: cut at the same places, every part is tokenised
once a batch.
"""

from __future__ import annotations

import re
from typing import Any

CHECKED_TEXTS = 32
"""Texts on which cutting is compared with tokenising whole before it is relied on."""


class SegmentEncoder:
    """Texts to token ids, exactly as the tokenizer gives them, without special tokens added."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.added: dict[str, list[int]] = {
            text: [number] for text, number in tokenizer.get_added_vocab().items()
        }
        longest_first = sorted(self.added, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        # A token that swallows the white space beside it makes its neighbours depend on it.
        strips = any(
            token.lstrip or token.rstrip or token.single_word
            for token in tokenizer.added_tokens_decoder.values()
        )
        self._may_cut = bool(self.added) and tokenizer.is_fast and not strips
        self._checked = False

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """The token ids of each of `texts`."""
        if not texts:
            return []
        if self._may_cut and not self._checked:
            self._checked = True
            some = texts[:CHECKED_TEXTS]
            self._may_cut = self._in_parts(some) == self._whole(some)
        return self._in_parts(texts) if self._may_cut else self._whole(texts)

    def _whole(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    def _in_parts(self, texts: list[str]) -> list[list[int]]:
        parts = [self._cut.split(text) for text in texts]
        known = dict(self.added)
        new = list({part for split in parts for part in split if part and part not in known})
        backend = self.tokenizer.backend_tokenizer
        for part, encoding in zip(
            new, backend.encode_batch_fast(new, add_special_tokens=False), strict=True
        ):
            known[part] = encoding.ids
        encoded = []
        for split in parts:
            tokens: list[int] = []
            for part in split:
                if part:
                    tokens += known[part]
            encoded.append(tokens)
        return encoded
