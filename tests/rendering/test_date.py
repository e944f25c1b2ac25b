"""A template that writes today's date writes the day of the run."""

import datetime

import pytest

from sft.errors import BadInput
from sft.renderers import get_renderer
from tests.rendering.test_ends import CHAT, tokenizer_of

DATED = (
    "<|im_start|>system\n{{ strftime_now('%d %b %Y') }}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_day_that_is_given_is_written():
    tokenizer = tokenizer_of(DATED)
    renderer = get_renderer(None, tokenizer, date="2020-02-29")
    (sequence,) = renderer.render(CHAT, "all_assistant_messages")
    assert "29 Feb 2020" in tokenizer.decode(sequence.tokens)
    assert "29 Feb 2020" in tokenizer.decode(renderer.generation_prompt(CHAT[:1]))


def test_without_one_it_is_today_as_the_library_writes_it():
    tokenizer = tokenizer_of(DATED)
    theirs = tokenizer.apply_chat_template(
        CHAT[:1], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert get_renderer(None, tokenizer).generation_prompt(CHAT[:1]) == theirs
    assert f"{datetime.date.today():%d %b %Y}" in tokenizer.decode(theirs)


def test_other_days_are_other_tokens_and_have_another_fingerprint():
    tokenizer = tokenizer_of(DATED)
    first, second = (
        get_renderer(None, tokenizer, date=day).fingerprint()
        for day in ("2020-01-01", "2020-01-02")
    )
    assert first != second


def test_what_is_no_day_is_refused():
    with pytest.raises(BadInput, match="date: 'tomorrow' is no day such as 2026-11-30"):
        get_renderer(None, tokenizer_of(DATED), date="tomorrow")
