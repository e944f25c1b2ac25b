"""Every trained answer stands behind exactly the tokens that it would be sampled from.

The expected tokens come from `apply_chat_template` alone, turn by turn.
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from sft.errors import BadInput
from sft.renderers import get_renderer
from tests.chat_templates import MARKERS, TEMPLATES, base_tokenizer, tokenizer_with

PIECES = [
    "yes", " no", "maybe\n", "\n\nlist:\n- a\n- b", "  spaces  ", "ünïcode ☃ 你好", "'s 123456 'LL",
    "{{ braces }}", "<b>bold</b>", "user", "\t", "1 + 1 = 2.", "👩‍👩‍👧 é é", "User: x", "",
]  # fmt: skip


def conversation(draw: random.Random, name: str) -> list[dict[str, str]]:
    """Sound for the template called `name`, with whatever text people write."""

    def text() -> str:
        return "".join(draw.choices(PIECES, k=draw.randint(1, 4)))

    strict = name in ("gemma", "llama2")
    messages = []
    if name != "gemma" and draw.random() < 0.4:
        messages.append({"role": "system", "content": text()})
    for _ in range(draw.randint(1, 4)):
        messages.append({"role": "user", "content": text()})
        answers = 1 if strict else draw.choice([1, 1, 1, 2])
        for number in range(answers):
            if number and name.startswith("qwen3") and draw.random() < 0.5:
                messages.append({"role": "tool", "content": text()})
            thinks = thinking_of(name, draw)
            thought = f"<think>\n{text()}\n</think>\n\n" if thinks else ""
            messages.append({"role": "assistant", "content": thought + text()})
    if draw.random() < 0.2:
        messages.append({"role": "user", "content": text()})
    return messages


def thinking_of(name: str, draw: random.Random) -> bool:
    """Whether an answer has reasoning: always where a prompt opens its block, and only where the
    template has a place for it."""
    return name == "deepseek-r1" or (name != "qwen3, no thinking" and draw.random() < 0.4)


def prompt_of(tokenizer, messages, kwargs) -> list[int]:
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, **kwargs
    )


def runs(rendered) -> list[tuple[int, int]]:
    """(start, end) of each run of trained tokens."""
    edges = [False, *rendered.trained, False]
    borders = [i for i, (a, b) in enumerate(pairwise(edges)) if a != b]
    return list(zip(borders[::2], borders[1::2], strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_answer_is_trained_once_behind_the_tokens_of_its_prompt(name):
    tokenizer, kwargs = tokenizer_with(name), TEMPLATES[name][1]
    renderer = get_renderer(None, tokenizer, kwargs)
    draw = random.Random(name)
    for _ in range(60):
        messages = conversation(draw, name)
        found = {
            tuple(rendered.tokens[:start]): rendered.tokens[start:end]
            for rendered in renderer.render(messages, "all_assistant_messages")
            for start, end in runs(rendered)
        }
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        assert len(found) == len(answers)
        for index in answers:
            prompt = prompt_of(tokenizer, messages[:index], kwargs)
            assert renderer.generation_prompt(messages[:index]) == prompt
            answer = tokenizer.decode(found[tuple(prompt)])
            assert answer == expected_answer(name, tokenizer, messages[: index + 1], kwargs)


def expected_answer(name, tokenizer, messages, kwargs) -> str:
    """The words of the last message as each template writes them, and its end of turn."""
    content = messages[-1]["content"]
    words = content.split("</think>")[-1]
    thought = content.split("</think>")[0].split("<think>")[-1] if "</think>" in content else ""
    if name == "qwen3":
        return f"<think>\n{thought.strip(chr(10))}\n</think>\n\n{words.lstrip(chr(10))}<|im_end|>"
    if name == "qwen3, no thinking":
        return words.lstrip("\n") + "<|im_end|>"
    if name == "alpaca":
        return content + "\n\n### User:"
    eos = tokenizer.eos_token
    return {
        "llama3": content.strip() + "<|eot_id|>",
        "gemma": content.strip() + "<end_of_turn>",
        "phi3": content + "<|end|>",
        "deepseek-r1": content.removeprefix("<think>\n") + eos,
        "llama2": f" {content.strip()} {eos}",
    }.get(name, content + "<|im_end|>")


@pytest.mark.parametrize("name", TEMPLATES)
def test_there_are_as_few_sequences_as_prompts_allow(name):
    """One for each answer whose prompt and words do not begin those of another."""
    tokenizer, kwargs = tokenizer_with(name), TEMPLATES[name][1]
    renderer = get_renderer(None, tokenizer, kwargs)
    draw = random.Random(name)
    for _ in range(30):
        messages = conversation(draw, name)
        alone = [
            tuple(renderer.render(messages[: index + 1], "last_assistant_message")[0].tokens)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        needed = [one for one in alone if not any(o != one and o[: len(one)] == one for o in alone)]
        rendered = renderer.render(messages, "all_assistant_messages")
        assert sorted(tuple(sequence.tokens) for sequence in rendered) == sorted(needed)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("train_on_what", ["all_assistant_messages", "all_messages", "all_tokens"])
def test_a_batch_is_rendered_as_one_by_one(name, train_on_what):
    # One sequence of all tokens has no place for thoughts that the template drops later on.
    lost = train_on_what == "all_tokens"
    renderer = get_renderer(None, tokenizer_with(name), TEMPLATES[name][1], lost_words=lost)
    draw = random.Random(1)
    conversations = [conversation(draw, name) for _ in range(40)]
    fresh = get_renderer(None, tokenizer_with(name), TEMPLATES[name][1], lost_words=lost)
    whole = fresh.render_batch(conversations, train_on_what)
    assert whole == [renderer.render(messages, train_on_what) for messages in conversations]


@pytest.mark.parametrize("name", TEMPLATES)
def test_all_messages_train_the_words_of_each_role_once(name):
    tokenizer = tokenizer_with(name)
    renderer = get_renderer(None, tokenizer, TEMPLATES[name][1])
    messages = [
        {"role": "system", "content": "Systematic."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "Uno."},
        {"role": "user", "content": "Second?"},
        {"role": "assistant", "content": "Dos."},
    ][1 if name == "gemma" else 0 :]
    if name == "deepseek-r1":
        for message in messages[2::2]:
            message["reasoning_content"] = "Hm."
    trained = "".join(
        tokenizer.decode(rendered.tokens[start:end])
        for rendered in renderer.render(messages, "all_messages")
        for start, end in runs(rendered)
    )
    for message in messages:
        assert trained.count(message["content"]) == 1


def test_thinking_that_a_prompt_has_closed_is_refused_or_left_out_if_asked_to():
    tokenizer = tokenizer_with("qwen3")
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBecause."},
    ]
    with pytest.raises(BadInput, match="message 2: .* does not write its reasoning .'hm'"):
        get_renderer("qwen3_disable_thinking", tokenizer).render(messages, "all_messages")
    renderer = get_renderer("qwen3_disable_thinking", tokenizer, lost_words=True)
    (rendered,) = renderer.render(messages, "all_assistant_messages")
    ((start, end),) = runs(rendered)
    assert tokenizer.decode(rendered.tokens[:start]).endswith("<think>\n\n</think>\n\n")
    assert tokenizer.decode(rendered.tokens[start:end]) == "Because.<|im_end|>"


def test_an_answer_to_nothing_follows_its_header():
    tokenizer = tokenizer_with("default system")
    messages = [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "Hi."}]
    (rendered,) = get_renderer(None, tokenizer).render(messages, "all_assistant_messages")
    ((start, end),) = runs(rendered)
    assert tokenizer.decode(rendered.tokens[:start]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(rendered.tokens[start:end]) == "Welcome.<|im_end|>"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama3", ["<|eot_id|>", "<|im_end|>"]), ("gemma", ["<end_of_turn>", "<|im_end|>"]),
     ("phi3", ["<|end|>", "<|im_end|>"]), ("qwen3", ["<|im_end|>"])],
)  # fmt: skip
def test_sampling_stops_at_the_end_of_a_turn_and_of_the_text(name, expected):
    tokenizer = tokenizer_with(name)
    stops = get_renderer(None, tokenizer).stop_sequences()
    assert set(tokenizer.convert_ids_to_tokens(stops)) == set(expected)


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("gemma", ["system", "user", "assistant"], "System role not supported"),
        ("gemma", ["user", "assistant", "assistant"], "must alternate"),
    ],
)
def test_what_a_template_refuses_is_bad_input(name, messages, reason):
    conversation = [{"role": role, "content": "Hm."} for role in messages]
    with pytest.raises(BadInput, match=reason):
        get_renderer(None, tokenizer_with(name)).render(conversation, "all_messages")


def test_fields_beside_role_and_content_reach_the_template():
    tokenizer = tokenizer_with("smollm2")
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = base_tokenizer().__class__.from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = template
    messages = [
        {"role": "user", "content": "Why?", "name": None},
        {"role": "assistant", "content": "So.", "reasoning_content": "hm"},
    ]
    (rendered,) = get_renderer(None, tokenizer).render(messages, "all_assistant_messages")
    ((start, end),) = runs(rendered)
    assert tokenizer.decode(rendered.tokens[start:end]) == "<think>hm</think>So.<|im_end|>"


def test_markers_are_single_tokens_here():
    assert all(len(base_tokenizer().encode(m, add_special_tokens=False)) == 1 for m in MARKERS)


@pytest.mark.parametrize("name", ["smollm2", "qwen3", "llama3", "gemma", "phi3"])
def test_the_question_of_a_prompt_is_the_users_words_alone(name):
    renderer = get_renderer(None, tokenizer_with(name))
    asked = [{"role": "user", "content": "What is it?"}]
    chat = [*asked, {"role": "assistant", "content": "That."}, {"role": "user", "content": "Why?"}]
    assert renderer.question(renderer.generation_prompt(asked)) == "What is it?"
    assert renderer.question(renderer.generation_prompt(chat)) == "… Why?"
    assert renderer.question(renderer.generation_prompt(asked)[:-1]) is None
