"""What training shows the model is, token for token, what the service will prompt it with."""

import random

import pytest

from sft.errors import BadInput
from sft.models import demo
from sft.models.tokenizers import load_tokenizer
from sft.renderers import get_renderer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Drops the thinking of earlier answers, and can be told to open an empty block of it (as Qwen3).
THINKING = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and '</think>' in m.content and loop.index0 < ns.last %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% elif m.role == 'assistant' and '</think>' not in m.content and loop.index0 > ns.last %}"
    "<think>\n\n</think>\n\n{{ m.content }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
# Inserts a system prompt where there is none.
DEFAULT_SYSTEM = (
    "{% if messages and messages[0].role != 'system' %}"
    "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
)
# Begins with a special token and strips what it writes (as Llama 3).
BEGINNING = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n"
    "{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
# Refuses what it does not know.
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
TEMPLATES = {
    "chatml": CHATML,
    "thinking": THINKING,
    "default-system": DEFAULT_SYSTEM,
    "beginning": BEGINNING,
    "smollm2": None,
}
WORDS = [
    "yes",
    " no",
    "maybe\n",
    "\n\nlist:\n- a\n- b",
    "  spaces  ",
    "ünïcode ☃",
    "a",
    "1 + 1 = 2",
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(demo.NAME)


def with_template(tokenizer, template, **kwargs):
    import copy

    changed = copy.deepcopy(tokenizer)
    if template is not None:
        changed.chat_template = template
    return changed, get_renderer(None, changed, kwargs)


def conversation(draw, thinking=False):
    messages = []
    if draw.random() < 0.4:
        messages.append({"role": "system", "content": "Answer " + draw.choice(WORDS)})
    for _ in range(draw.randint(1, 4)):
        messages.append({"role": "user", "content": draw.choice(WORDS) + draw.choice(WORDS)})
        answer = draw.choice(WORDS) + draw.choice(WORDS)
        if thinking and draw.random() < 0.5:
            answer = f"<think>\n{draw.choice(WORDS)}\n</think>\n\n{answer}"
        messages.append({"role": "assistant", "content": answer})
    return messages


def spans(rendered):
    """(start, end) of each run of trained tokens."""
    runs, start = [], None
    for index, yes in enumerate([*rendered.trained, False]):
        if yes and start is None:
            start = index
        elif not yes and start is not None:
            runs.append((start, index))
            start = None
    return runs


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_answer_is_trained_once_behind_the_exact_tokens_of_its_prompt(tokenizer, name):
    changed, renderer = with_template(tokenizer, TEMPLATES[name])
    draw = random.Random(name)
    for _ in range(60):
        messages = conversation(draw, thinking=name == "thinking")
        expected = {}
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = changed.apply_chat_template(
                    messages[:index], add_generation_prompt=True, tokenize=True, return_dict=False
                )
                expected[tuple(prompt)] = message["content"]
        for rendered in renderer.render(messages, "all_assistant_messages"):
            for start, end in spans(rendered):
                words = expected.pop(tuple(rendered.tokens[:start]))
                text = changed.decode(rendered.tokens[start:end])
                assert text.endswith("<|im_end|>")
                said = text.removesuffix("<|im_end|>")
                if name == "thinking" and "</think>" not in words:
                    said = said.removeprefix("<think>\n\n</think>\n\n")
                assert said == (words.strip() if name == "beginning" else words)
        assert expected == {}


def test_answers_that_stay_as_they_were_sampled_share_one_sequence(tokenizer):
    _, renderer = with_template(tokenizer, CHATML)
    messages = 3 * [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes."}]
    (rendered,) = renderer.render(messages, "all_assistant_messages")
    assert len(spans(rendered)) == 3


def test_answers_whose_thinking_is_dropped_get_sequences_of_their_own(tokenizer):
    _, renderer = with_template(tokenizer, THINKING)
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
    messages = 3 * [{"role": "user", "content": "Hi."}, thought]
    assert len(renderer.render(messages, "all_assistant_messages")) == 3


def test_the_templates_own_words_reach_the_prompt(tokenizer):
    changed, renderer = with_template(tokenizer, THINKING, enable_thinking=False)
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes."}]
    (rendered,) = renderer.render(messages, "all_assistant_messages")
    ((start, end),) = spans(rendered)
    assert changed.decode(rendered.tokens[:start]).endswith("<think>\n\n</think>\n\n")
    assert changed.decode(rendered.tokens[start:end]) == "Yes.<|im_end|>"
    assert renderer.generation_prompt(messages[:1]) == rendered.tokens[:start]


def test_the_beginning_token_is_not_doubled(tokenizer):
    changed, renderer = with_template(tokenizer, BEGINNING)
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes."}]
    (rendered,) = renderer.render(messages, "all_assistant_messages")
    assert rendered.tokens[:2] == [
        changed.bos_token_id,
        changed.convert_tokens_to_ids("<|im_start|>"),
    ]


MESSAGES = [
    {"role": "system", "content": "Sys.", "trainable": False},
    {"role": "user", "content": "One?", "trainable": True},
    {"role": "assistant", "content": "Un.", "trainable": False},
    {"role": "user", "content": "Two?", "trainable": False},
    {"role": "assistant", "content": "Deux.", "trainable": True},
    {"role": "assistant", "content": "Trois.", "trainable": True},
]


@pytest.mark.parametrize(
    ("train_on_what", "expected"),
    [
        ("last_assistant_message", ["Trois."]),
        ("last_assistant_turn", ["Deux.", "Trois."]),
        ("all_assistant_messages", ["Un.", "Deux.", "Trois."]),
        ("all_messages", ["Sys.", "One?", "Un.", "Two?", "Deux.", "Trois."]),
        ("all_user_and_system_messages", ["Sys.", "One?", "Two?"]),
        ("customized", ["One?", "Deux.", "Trois."]),
    ],
)
def test_train_on_what_says_whose_words_carry_loss(tokenizer, train_on_what, expected):
    changed, renderer = with_template(tokenizer, CHATML)
    texts = [
        changed.decode(rendered.tokens[start:end])
        for rendered in renderer.render(MESSAGES, train_on_what)
        for start, end in spans(rendered)
    ]
    assert texts == [f"{words}<|im_end|>" for words in expected]
    rendered = renderer.render(MESSAGES, train_on_what)
    assert sum(r.trained_bytes() for r in rendered) == sum(len(w) for w in expected)


def test_all_tokens_carry_loss_when_asked_to(tokenizer):
    _, renderer = with_template(tokenizer, CHATML)
    (rendered,) = renderer.render(MESSAGES, "all_tokens")
    assert all(rendered.trained)


def test_customized_needs_a_flag_in_every_message(tokenizer):
    _, renderer = with_template(tokenizer, CHATML)
    with pytest.raises(BadInput, match="message 1 has no 'trainable'"):
        renderer.render([{"role": "user", "content": "Hi."}], "customized")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_batch_is_rendered_as_one_by_one(tokenizer, name):
    _, renderer = with_template(tokenizer, TEMPLATES[name])
    draw = random.Random(1)
    conversations = [conversation(draw, thinking=True) for _ in range(40)]
    whole = renderer.render_batch(conversations, "all_assistant_messages")
    assert whole == [renderer.render(c, "all_assistant_messages") for c in conversations]


def test_a_conversation_without_an_answer_gives_no_sequence(tokenizer):
    _, renderer = with_template(tokenizer, CHATML)
    assert renderer.render([{"role": "user", "content": "Hi."}], "all_assistant_messages") == []


def test_a_base_model_is_trained_with_role_colon(tokenizer):
    renderer = get_renderer("role_colon", tokenizer)
    (rendered,) = renderer.render(
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes."}],
        "all_assistant_messages",
    )
    ((start, end),) = spans(rendered)
    assert tokenizer.decode(rendered.tokens[:start]).endswith("User: Hi.\n\nAssistant:")
    assert tokenizer.decode(rendered.tokens[start:end]) == " Yes.\n\nUser:"
    assert renderer.stop_sequences() == ["\n\nUser:"]


def test_a_model_without_a_template_is_told_of_role_colon(tokenizer):
    changed, _ = with_template(tokenizer, CHATML)
    changed.chat_template = None
    with pytest.raises(BadInput, match="no chat template.*role_colon"):
        get_renderer(None, changed)


def test_the_cookbooks_names_mean_the_template_and_others_are_refused(tokenizer):
    messages = [{"role": "user", "content": "Hi."}]
    own = get_renderer(None, tokenizer).generation_prompt(messages)
    assert get_renderer("qwen3", tokenizer).generation_prompt(messages) == own
    assert get_renderer("llama3", tokenizer).generation_prompt(messages) == own
    with pytest.raises(BadInput, match="did you mean 'qwen3'"):
        get_renderer("qwne3", tokenizer)


def test_what_the_template_refuses_is_said(tokenizer):
    _, renderer = with_template(tokenizer, ALTERNATING)
    with pytest.raises(BadInput, match="roles must alternate"):
        renderer.render(MESSAGES, "all_assistant_messages")


def test_an_answer_ends_with_the_marker_of_its_turn(tokenizer):
    renderer = get_renderer(None, tokenizer)
    assert renderer.stop_sequences() == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_the_fingerprint_changes_with_template_and_its_arguments(tokenizer):
    prints = {
        with_template(tokenizer, template, **kwargs)[1].fingerprint()
        for template, kwargs in [
            (CHATML, {}),
            (THINKING, {}),
            (THINKING, {"enable_thinking": False}),
        ]
    }
    assert len(prints) == 3
    assert (
        get_renderer(None, tokenizer).fingerprint() == get_renderer(None, tokenizer).fingerprint()
    )


def test_role_colon_begins_a_text_as_the_tokenizer_itself_does(tokenizer):
    messages = [{"role": "user", "content": "Hi."}]
    assert tokenizer.bos_token  # which this tokenizer does not begin texts with
    prompt = get_renderer("role_colon", tokenizer).generation_prompt(messages)
    assert prompt == tokenizer.encode("User: Hi.\n\nAssistant:")


def test_an_unknown_train_on_what_is_answered_with_the_nearest(tokenizer):
    with pytest.raises(BadInput, match="did you mean 'all_assistant_messages'"):
        get_renderer(None, tokenizer).render(MESSAGES, "assistant_messages")
