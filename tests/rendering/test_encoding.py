"""Encoding by parts and words gives the tokens that the tokenizer gives for the whole text."""

from __future__ import annotations

import copy
import random

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sft.models import demo
from sft.models.tokenizers import load_tokenizer
from sft.rendering.encoding import Encoder

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
NUMBERS_APART = r"\p{N}"  # leaves text between its matches


def byte_level(pattern: str | None) -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer with the words of another model."""
    tokenizer = copy.deepcopy(load_tokenizer(demo.NAME))
    if pattern:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return tokenizer


def texts(markers: list[str], count: int) -> list[str]:
    draw = random.Random(0)
    common = [" the", "Hello", " foo", "bar", "'ll", "'LL", "'s", " 12", "3456", "\n\n", "\r\n",
              " \n", "  ", "\t", "\xa0", "\x0b", "\x85", "\u2028", "e\u0301", "\u2019"]  # fmt: skip

    def piece() -> str:
        return draw.choice([
            draw.choice(common), draw.choice(common), chr(draw.randint(9, 126)),
            chr(draw.randint(0xA0, 0x24F)), chr(draw.randint(0x300, 0x2FFF)),
            chr(draw.randint(0x1F300, 0x1FAFF)), draw.choice(markers),
        ])  # fmt: skip

    return ["".join(piece() for _ in range(draw.randint(0, 40))) for _ in range(count)]


@pytest.mark.parametrize("pattern", [None, LLAMA3_WORDS, QWEN_WORDS, NUMBERS_APART])
def test_words_of_byte_level_tokenizers_are_encoded_as_in_their_text(pattern):
    tokenizer = byte_level(pattern)
    encoder = Encoder(tokenizer)
    assert encoder.by_words
    some = texts(list(tokenizer.get_added_vocab()), 1500)
    assert encoder.encode(some) == tokenizer(some, add_special_tokens=False)["input_ids"]


def test_a_tokenizer_whose_words_depend_on_their_place_encodes_whole_texts():
    backend = Tokenizer(models.BPE({"▁": 0, "a": 1, "b": 2, "▁a": 3}, [("▁", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    encoder = Encoder(tokenizer)
    assert not encoder.by_words
    some = ["ab a", "a</s>a", "", "</s>b"]
    assert encoder.encode(some) == tokenizer(some, add_special_tokens=False)["input_ids"]


def test_a_marker_that_swallows_the_space_beside_it_is_left_to_the_tokenizer():
    from tokenizers import AddedToken

    tokenizer = byte_level(None)
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    encoder = Encoder(tokenizer)
    assert not encoder.by_words
    assert encoder.encode(["a <mask> b"]) == [tokenizer.encode("a <mask> b")]


def test_the_words_held_are_bounded(monkeypatch):
    monkeypatch.setattr("sft.rendering.encoding.WORD_CACHE_CHARACTERS", 100)
    encoder = Encoder(byte_level(None))
    for number in range(50):
        encoder.encode([f"{'word' * number} {'another' * number}"])
    assert sum(map(len, encoder.words)) < 1000
