"""The bytes behind tokens, against what the tokenizers themselves decode."""

import random

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from sft.models.tokenizers import load_tokenizer
from sft.rendering.token_bytes import TokenBytes, special_tokens

TEXTS = [
    "Hello there.",
    " two  spaces",
    "naïve €5 – 日本語 🙂🙂",
    "a▁b <0x41>",
    "line\n\n\tline",
    "",
]


def sentencepiece(*, prepends: bool) -> PreTrainedTokenizerFast:
    """As Llama 2's (`prepends`: every stretch begins with a space of its own) or Gemma's."""
    words = ["▁", "a", "b", "e", "l", "H", "o", "t", "▁t", "ll", "▁H", "▁▁", "\n", "▁a"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + words
    merges = [("l", "l"), ("▁", "t"), ("▁", "H"), ("▁", "▁"), ("▁", "a")]
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    spaces = normalizers.Replace(" ", "▁")
    first = [normalizers.Prepend("▁")] if prepends else []
    backend.normalizer = normalizers.Sequence([*first, spaces])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*steps, *([decoders.Strip(" ", 1, 0)] if prepends else [])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken("<turn>", special=True), AddedToken("<think>")])
    return tokenizer


@pytest.fixture(params=["demo", "bytes", "llama2", "gemma"])
def tokenizer(request, tiny_model):
    if request.param == "demo":
        from sft.models import demo

        return load_tokenizer(demo.NAME)
    if request.param == "bytes":
        tokenizer = load_tokenizer(str(tiny_model))
        return tokenizer
    return sentencepiece(prepends=request.param == "llama2")


def test_the_bytes_of_all_tokens_behind_a_special_one_are_those_of_the_text(tokenizer):
    counter = TokenBytes(tokenizer)
    end = tokenizer.eos_token
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choice(TEXTS) for _ in range(3))
        if "▁" in text and type(tokenizer.backend_tokenizer.normalizer).__name__ == "Sequence":
            text = text.replace("▁", "_")  # which is a space to SentencePiece
        tokens = tokenizer(end + text + end, add_special_tokens=False)["input_ids"]
        sizes = counter.count(tokens)
        assert sizes[0] == sizes[-1] == 0
        assert sizes.sum() == len(text.encode())
        decoded = tokenizer.decode(tokens, skip_special_tokens=True)
        assert sizes.sum() == len(decoded.encode())


def test_tokens_that_are_cut_within_a_character_have_the_bytes_that_they_hold(tokenizer):
    counter = TokenBytes(tokenizer)
    tokens = tokenizer(tokenizer.eos_token + "日本🙂", add_special_tokens=False)["input_ids"]
    sizes = counter.count(tokens)
    for end in range(len(tokens) + 1):
        assert np.array_equal(counter.count(tokens[:end]), sizes[:end])
    assert sizes.sum() == 10


def test_special_is_what_decoding_leaves_out():
    tokenizer = sentencepiece(prepends=False)
    special = special_tokens(tokenizer)
    for token in range(len(tokenizer)):
        left_out = not tokenizer.decode([token], skip_special_tokens=True)
        assert (token in special) == left_out, tokenizer.convert_ids_to_tokens(token)
