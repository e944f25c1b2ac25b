"""Each kind of template times each kind of conversation: nothing is lost, nothing trained amiss.

The right answers come from the data and from `apply_chat_template` (`oracle.py`), never from the
renderer. `benchmarks/renderings.py` asks the same of published tokenizers and templates.
"""

from __future__ import annotations

import pytest

from sft.renderers import get_renderer
from tests.more_chat_templates import NAMES, arguments_of, tokenizer_with
from tests.rendering.conversations import ROWS
from tests.rendering.oracle import Oracle
from tests.rendering.outcome import outcome


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["all_assistant_messages", "last_assistant_message"])
def test_every_word_is_trained_as_it_is_sampled_or_its_row_is_refused(name, what):
    tokenizer, kwargs = tokenizer_with(name), arguments_of(name)
    renderer = get_renderer("role_colon" if name == "role_colon" else None, tokenizer, kwargs)
    oracle = Oracle(tokenizer, kwargs)
    wrong = []
    for title, row in ROWS.items():
        kind, notes = outcome(oracle, renderer, row, what)
        if kind == "wrong":
            wrong.append(f"{title}: {'; '.join(notes)}")
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_question_and_answer_is_trained_or_the_template_cannot_be(name):
    """What the templates here are: which of them are refused altogether."""
    tokenizer, kwargs = tokenizer_with(name), arguments_of(name)
    renderer = get_renderer("role_colon" if name == "role_colon" else None, tokenizer, kwargs)
    kind, _ = outcome(Oracle(tokenizer, kwargs), renderer, ROWS["one answer"])
    # A prompt that opens a thought and no way to write an empty one; content that must be parts;
    # no end of turn that is a marker of the tokenizer's.
    may_be_refused = name in ("deepseek-r1", "parts", "alpaca")
    assert kind == "right" or (kind == "refused" and may_be_refused)
