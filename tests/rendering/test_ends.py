"""Every answer learns to stop, and sampling stops at what was trained."""

import pytest

from sft.errors import BadInput
from sft.renderers import get_renderer
from tests.chat_templates import base_tokenizer

NEXT_SPEAKER = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TWO_MARKERS = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<|begin|>{{ m.content }}<|end|>{% else %}{{ m.content }}"
    "{% endif %}<end_of_turn>{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n<|begin|>{% endif %}"
)
WITHOUT = "{% for m in messages %}{{ m.content }}{% endfor %}"
CHAT = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Un."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Deux."},
]


def tokenizer_of(template):
    import copy

    tokenizer = copy.deepcopy(base_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def trained_of(template):
    tokenizer = tokenizer_of(template)
    renderer = get_renderer(None, tokenizer)
    (sequence,) = renderer.render(CHAT, "all_assistant_messages")
    trained = [t for t, yes in zip(sequence.tokens, sequence.trained, strict=True) if yes]
    stops = tokenizer.convert_ids_to_tokens(renderer.stop_sequences())
    return tokenizer.decode(trained), set(stops) - {tokenizer.eos_token}


def test_without_a_marker_the_next_speaker_ends_the_turn():
    trained, stops = trained_of(NEXT_SPEAKER)
    assert trained == "Un.<|user|>Deux.<|user|>"
    assert stops == {"<|user|>"}


def test_all_markers_behind_an_answer_are_trained_and_the_last_one_stops():
    trained, stops = trained_of(TWO_MARKERS)
    assert trained == "Un.<|end|><end_of_turn>Deux.<|end|><end_of_turn>"
    assert stops == {"<end_of_turn>"}


def test_a_template_that_ends_no_turn_is_refused():
    with pytest.raises(BadInput, match="writes nothing behind an answer.*role_colon"):
        get_renderer(None, tokenizer_of(WITHOUT)).render(CHAT, "all_assistant_messages")


def test_words_that_end_a_turn_of_names_are_refused():
    messages = [CHAT[0], {"role": "assistant", "content": "Un.\n\nUser: Two?"}]
    renderer = get_renderer("role_colon", base_tokenizer())
    with pytest.raises(BadInput, match="the words hold .*User:.*which ends a turn"):
        renderer.render(messages, "all_assistant_messages")
