"""The oracle sees faults: right sequences, each spoilt in one way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sft.renderers import get_renderer
from tests.more_chat_templates import arguments_of, tokenizer_with
from tests.rendering import rows
from tests.rendering.conversations import ROWS
from tests.rendering.oracle import Oracle
from tests.rendering.outcome import conversation

NAMES = ["smollm2", "qwen3", "next speaker", "opens a thought", "channels", "role_colon"]


def with_tokens(sequence, tokens, trained):
    return replace(sequence, tokens=tokens, trained=trained)


def no_end(sequence):
    """Its last token is not trained."""
    return with_tokens(sequence, sequence.tokens, [*sequence.trained[:-1], False])


def cut(sequence):
    return with_tokens(sequence, sequence.tokens[:-1], sequence.trained[:-1])


def header(sequence):
    """One token more is trained, before the first answer."""
    first = sequence.trained.index(True)
    return with_tokens(
        sequence, sequence.tokens, [*sequence.trained[: first - 1], True, *sequence.trained[first:]]
    )


def question(sequence):
    """A word of the question is trained."""
    return with_tokens(
        sequence, sequence.tokens, [*sequence.trained[:5], True, *sequence.trained[6:]]
    )


def other_prompt(sequence):
    return with_tokens(sequence, [sequence.tokens[1], *sequence.tokens[1:]], sequence.trained)


def doubled_end(sequence):
    return with_tokens(sequence, [*sequence.tokens, sequence.tokens[-1]], [*sequence.trained, True])


def lost_word(sequence):
    """A token of the last answer is missing."""
    tokens, trained = list(sequence.tokens), list(sequence.trained)
    del tokens[-3], trained[-3]
    return with_tokens(sequence, tokens, trained)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "spoil", [no_end, cut, header, question, other_prompt, doubled_end, lost_word]
)
def test_a_spoilt_sequence_is_seen(name, spoil):
    tokenizer, kwargs = tokenizer_with(name), arguments_of(name)
    renderer = get_renderer("role_colon" if name == "role_colon" else None, tokenizer, kwargs)
    oracle = Oracle(tokenizer, kwargs)
    messages, tools = rows.read(ROWS["three turns"])
    sequences = renderer.render(conversation(messages, tools), "all_assistant_messages")
    stops = renderer.stop_sequences()
    assert oracle.check(messages, tools, sequences, stops).faults == []
    spoilt = [*sequences[:-1], spoil(sequences[-1])]
    assert oracle.check(messages, tools, spoilt, stops).faults != []


@pytest.mark.parametrize("name", NAMES)
def test_sequences_of_other_data_are_seen(name):
    tokenizer, kwargs = tokenizer_with(name), arguments_of(name)
    renderer = get_renderer("role_colon" if name == "role_colon" else None, tokenizer, kwargs)
    oracle = Oracle(tokenizer, kwargs)
    stops = renderer.stop_sequences()
    system, weights = rows.read(ROWS["with a system turn"])[0], rows.read(ROWS["weights"])[0]
    unweighted = [{**message, "weight": 1} for message in weights]
    for said, given in ((system, system[1:]), (weights, unweighted), (unweighted, weights)):
        sequences = renderer.render(conversation(given, []), "all_assistant_messages")
        assert oracle.check(said, [], sequences, stops).faults != []
        doubled = [*sequences, sequences[-1]]
        assert oracle.check(given, [], doubled, stops).faults != []


def test_a_control_token_that_was_typed_and_is_one_is_seen():
    tokenizer = tokenizer_with("smollm2")
    oracle, renderer = Oracle(tokenizer), get_renderer(None, tokenizer)
    messages = rows.read(ROWS["ChatML typed by a user"])[0]
    (sequence,) = renderer.render(conversation(messages, []), "all_assistant_messages")
    tokens = tokenizer(tokenizer.decode(sequence.tokens))["input_ids"]
    trained = [False] * (len(tokens) - 3) + [True] * 3
    spoilt = with_tokens(sequence, tokens, trained)
    assert oracle.check(messages, [], [spoilt], renderer.stop_sequences()).faults != []
