"""Encoding many rendered conversations: the tokens a fast tokenizer gives, sooner.

Rendered conversations repeat themselves: headers, system prompts, the prompt of one answer within
that of the next. A byte-level BPE tokenizer works on the text between two markers (added tokens
such as `<|im_start|>`) by itself, and there on one word at a time; so each stretch between markers
is encoded once a batch, and each word once. Tokenizers of other kinds encode whole texts.
Markers that `BREAK` keeps apart (see `sft.rendering.control_tokens`) are encoded as text.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from itertools import chain
from typing import Any

from sft.errors import BadInput
from sft.rendering.control_tokens import BREAK, control_tokens, whole

GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the `ByteLevel` pre-tokenizer splits by when it is given no pattern."""
_RANGES = (
    ("\t", "\n"),
    ("\r", "\r"),
    (" ", "~"),
    ("\xa0", "\u024f"),
    ("\u2010", "\u2027"),
    ("\u20ac", "\u20ac"),
)
SURE = "".join(
    chr(code)
    for first, last in _RANGES
    for code in range(ord(first), ord(last) + 1)
    if chr(code) not in "\u0130\u0131\u017f"  # whose case depends on who folds it
)
"""Characters of the same class in every version of Unicode: texts of these alone are split here."""
PROBE = "I'll say: it's  12345 words,\n\n \t(“naïve”…) a.b\n  x\r\n\n!?  'S'LL 9a_b\n"
WORD_CACHE_CHARACTERS = 4_000_000


class Encoder:
    """`encode(texts)` equals `tokenizer(texts, add_special_tokens=False)["input_ids"]`."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.words: dict[str, tuple[int, ...]] = {}  # tuples: none of the garbage collector's work
        self._held = 0  # characters in `words`
        self._unsure = re.compile(f"[^{re.escape(SURE)}]")
        self._pattern = _word_pattern(tokenizer)
        self._markers = {token: i for token, i in tokenizer.get_added_vocab().items() if token}
        longest_first = sorted(self._markers, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})").split
        if self.by_words and self.encode([PROBE]) != self._plain([PROBE]):
            self._pattern = None

    @property
    def by_words(self) -> bool:
        """Whether texts are encoded by their parts and words, rather than whole."""
        return self._pattern is not None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text; what is written there is all there is, nothing is added."""
        if not texts:
            return []
        if not self.by_words:
            broken = {text: self._in_parts(text) for text in texts if BREAK in text}
            plain = iter(self._plain([text for text in texts if text not in broken]))
            return [broken[text] if text in broken else next(plain) for text in texts]
        pieces = [self._split(text) for text in texts]  # [stretch, marker, stretch, …, stretch]
        known = self._stretches({stretch for row in pieces for stretch in row[::2]})
        known |= {marker: [token] for marker, token in self._markers.items()}
        encoded = []
        for row in pieces:
            tokens: list[int] = []
            for piece in row:
                tokens += known[piece]
            encoded.append(tokens)
        return encoded

    def encode_behind(self, text: str) -> list[int]:
        """The tokens of `text` as it stands behind other text, from its own border on."""
        if self.by_words:
            return self.encode([text])[0]
        if BREAK in text:
            return self._in_parts(text, behind=True)
        # SentencePiece puts a space before what it takes for a beginning: not behind a new line.
        line, both = self._plain(["\n", "\n" + text])
        return both[len(line) :] if both[: len(line)] == line else self._plain([text])[0]

    def _in_parts(self, text: str, behind: bool = False) -> list[int]:
        """The tokens of a text in which `BREAK` keeps what looks like markers apart.

        `behind`: it stands behind other text.
        """
        tokens: list[int] = []
        for number, piece in enumerate(self._split(text)):
            if number % 2:
                tokens.append(self._markers[piece])
            elif BREAK in piece:
                tokens += self._as_text(piece, begins=not (number or behind))
            elif piece and (number or behind):
                tokens += self.encode_behind(piece)
            elif piece:
                tokens += self._plain([piece])[0]
        return tokens

    def _as_text(self, stretch: str, begins: bool) -> list[int]:
        """The tokens of a stretch without its `BREAK`s, none of which is a marker.

        `begins`: it stands at the beginning, not behind other text.
        """
        text, before = whole(stretch), "" if begins or self.by_words else "\n"
        encode = self._without_markers.encode
        tokens = list(encode(before + text, add_special_tokens=False).ids)
        if before:
            tokens = tokens[len(encode(before, add_special_tokens=False).ids) :]
        if not set(self._control).isdisjoint(tokens):
            raise BadInput(
                "this tokenizer knows no way to write a control token as text; take it out, or "
                "set dataset.control_tokens=as_tokens"
            )
        return tokens

    @functools.cached_property
    def _control(self) -> list[int]:
        return [self._markers[token] for token in control_tokens(self.tokenizer)]

    @functools.cached_property
    def _without_markers(self) -> Any:
        """The tokenizer with none of its added tokens."""
        from tokenizers import Tokenizer

        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return Tokenizer.from_str(json.dumps({**state, "added_tokens": [], "post_processor": None}))

    def _stretches(self, stretches: set[str]) -> dict[str, list[int]]:
        apart = {s: self._as_text(s, begins=True) for s in stretches if BREAK in s}
        stretches = stretches.difference(apart)
        if self._held > WORD_CACHE_CHARACTERS:
            self.words, self._held = {}, 0
        unsure = [stretch for stretch in stretches if self._unsure.search(stretch)]
        split = {s: self._pattern.findall(s) for s in stretches.difference(unsure)}
        new = list(set(chain.from_iterable(split.values())).difference(self.words))
        tokens = self._plain([*unsure, *new])
        self.words.update(zip(new, map(tuple, tokens[len(unsure) :]), strict=True))
        self._held += sum(map(len, new))
        known = dict(zip(unsure, tokens, strict=False))
        for stretch, words in split.items():
            known[stretch] = list(chain.from_iterable(map(self.words.__getitem__, words)))
        return known | apart

    def _plain(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]


def _word_pattern(tokenizer: Any) -> Any:
    """What splits text into the words that the tokenizer encodes one by one; None: not known.

    Known are byte-level BPE without a prefix space, as GPT-2's, Llama 3's and Qwen's: words are
    then encoded the same wherever they stand.
    """
    from tokenizers import models

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, models.BPE) or backend.model.dropout:
        return None
    normal = _state(backend.normalizer)
    added = tokenizer.added_tokens_decoder.values()
    if normal not in (None, {"type": "NFC"}) or any(
        token.lstrip or token.rstrip or token.single_word for token in added
    ):
        return None
    steps = _state(backend.pre_tokenizer) or {}
    *splits, last = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not splits and last["use_regex"]:
        return re.compile(_for_re(GPT2_WORDS))
    if len(splits) != 1 or last["use_regex"] or splits[0]["type"] != "Split":
        return None
    split = splits[0]
    if split["behavior"] != "Isolated" or split["invert"] or "Regex" not in split["pattern"]:
        return None
    try:
        words = _for_re(split["pattern"]["Regex"])
        # Whatever stands between two matches is a word too.
        pattern = re.compile(rf"(?:{words})|(?:(?!{words})[\s\S])+")
    except re.error:
        return None
    return None if pattern.groups else pattern


def _for_re(pattern: str) -> str:
    """`pattern` for Python's `re`, which has no `\\p{L}`, on texts of `SURE` characters."""
    within = False  # brackets

    def spelled(match: re.Match[str]) -> str:
        nonlocal within
        if category := match[1]:
            members = (c for c in SURE if unicodedata.category(c).startswith(category))
            text = re.escape("".join(members))
            return text if within else f"[{text}]" if text else "(?!)"
        if match[0] in ("[", "]"):
            within = match[0] == "["
        return match[0]

    return re.sub(r"\\p\{(\w+)\}|\\.|[\[\]]", spelled, pattern, flags=re.DOTALL)


def _state(part: Any) -> dict[str, Any] | None:
    return json.loads(part.__getstate__()) if part is not None else None
