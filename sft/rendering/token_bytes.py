"""The bytes of text behind each token, for bits per byte.

Special tokens (what `decode(skip_special_tokens=True)` leaves out) are no text: they have no
bytes, and bits per byte leaves their nats out too, as Tinker's cookbook does.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SPACE = "\u2581"
"""What SentencePiece writes for a space."""


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """The ids that `tokenizer.decode(…, skip_special_tokens=True)` leaves out."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special}


class TokenBytes:
    """Counts the UTF-8 bytes of each token of a sequence; those of all are the bytes of its text.

    Of a character whose tokens are cut apart each has the bytes that it holds.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.special = special_tokens(tokenizer)

    def count(self, tokens: list[int]) -> np.ndarray:
        """Bytes of each of `tokens`, int32 [T]."""
        import numpy as np

        ids = np.asarray(tokens, dtype=np.int64)
        sizes = self._sizes[ids]
        if self._adds_space:
            # Not of the text: the tokenizer begins every stretch behind a special token with it.
            sizes[1:] -= self._is_special[ids[:-1]] & self._begins_with_space[ids[1:]]
        return sizes

    @functools.cached_property
    def _pieces(self) -> list[str | None]:
        """Each token as the tokenizer's model writes it."""
        vocabulary = self.tokenizer.get_vocab()
        pieces: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for piece, token in vocabulary.items():
            pieces[token] = piece
        return pieces

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        import numpy as np

        size = _size_of_pieces(self.tokenizer)
        sizes = [
            0 if piece is None else size(piece, token) for token, piece in enumerate(self._pieces)
        ]
        for token, added in self.tokenizer.added_tokens_decoder.items():
            sizes[token] = len(added.content.encode("utf-8"))
        for token in self.special:
            sizes[token] = 0
        return np.array(sizes, dtype=np.int32)

    @functools.cached_property
    def _adds_space(self) -> bool:
        special = next(iter(sorted(self.special)), None)
        if special is None:
            return False
        text = self.tokenizer.convert_ids_to_tokens(special) + "a"
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return len(tokens) > 1 and (self._pieces[tokens[1]] or "").startswith(SPACE)

    @functools.cached_property
    def _begins_with_space(self) -> np.ndarray:
        import numpy as np

        return np.array([(piece or "").startswith(SPACE) for piece in self._pieces])

    @functools.cached_property
    def _is_special(self) -> np.ndarray:
        import numpy as np

        return np.isin(np.arange(len(self._pieces)), list(self.special))


def _size_of_pieces(tokenizer: Any) -> Callable[[str, int], int]:
    """How many bytes a piece of the vocabulary stands for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kinds = set(_kinds(json.loads(backend.decoder.__getstate__()))) if backend is not None and (
        backend.decoder is not None
    ) else set()  # fmt: skip
    if "ByteLevel" in kinds:
        from tokenizers import pre_tokenizers

        # A character for each byte, which UTF-8 writes in one byte or two.
        alphabet = set(pre_tokenizers.ByteLevel.alphabet())
        return lambda piece, _: sum(
            1 if character in alphabet else len(character.encode("utf-8")) for character in piece
        )
    if kinds & {"Metaspace", "Replace"}:
        byte = re.compile(r"<0x[0-9A-F]{2}>").fullmatch
        falls_back = "ByteFallback" in kinds
        return lambda piece, _: (
            1 if falls_back and byte(piece) else len(piece.replace(SPACE, " ").encode("utf-8"))
        )
    return lambda _, token: len(tokenizer.decode([token]).encode("utf-8"))


def _kinds(state: Any) -> Iterator[str]:
    yield state["type"]
    for part in state.get("decoders", ()):
        yield from _kinds(part)
