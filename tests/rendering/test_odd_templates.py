"""Templates that write headers, ends and thoughts where others do not."""

import copy

import pytest

from sft.errors import BadInput
from sft.renderers import get_renderer
from sft.rendering.conversations import Conversation
from tests.more_chat_templates import tokenizer_with

# As OLMo 3: the prompt is asked for within the loop, and a system turn comes first in any case.
PROMPT_IN_THE_LOOP = (
    "<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% if loop.last and add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% endfor %}"
)
STOPS_TWICE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<|im_end|>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As SmolLM3: the prompt closes an empty block, and the finished turn shows its reasoning.
CLOSED_BLOCK = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n{% endif %}"
)
# As SmolLM3: tools are written as Python writes them.
TOOLS_AS_PYTHON = (
    "{% for t in tools or [] %}{{ t | string }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained(template, *messages, tools=(), what="all_assistant_messages"):
    """The trained stretches as text."""
    tokenizer = copy.deepcopy(tokenizer_with("smollm2"))
    tokenizer.chat_template = template
    renderer = get_renderer(None, tokenizer)
    found = []
    for sequence in renderer.render(Conversation(list(messages), list(tools)), what):
        before = False
        for token, yes in zip(sequence.tokens, sequence.trained, strict=True):
            if yes:
                found += [[]] if not before else []
                found[-1].append(token)
            before = yes
    return [tokenizer.decode(tokens) for tokens in found]


def user(words):
    return {"role": "user", "content": words}


def answer(words, **fields):
    return {"role": "assistant", "content": words, **fields}


def tool(description):
    return {"type": "function", "function": {"name": "look", "description": description}}


def test_the_header_of_a_first_answer_is_not_trained_whoever_writes_it():
    chat = answer("Welcome"), user("Hi"), answer("Hello")
    assert trained(PROMPT_IN_THE_LOOP, *chat) == ["Welcome<|im_end|>", "Hello<|im_end|>"]


def test_a_turn_in_which_sampling_would_stop_before_its_end_is_refused():
    with pytest.raises(BadInput, match="message 2: .* writes '<.im_end.>' within the turn"):
        trained(STOPS_TWICE, user("Hi"), answer("Hello"))


def test_no_thought_is_trained_behind_a_block_that_the_prompt_has_closed():
    with pytest.raises(BadInput, match="message 2: .* does not write its reasoning .'Hm'"):
        trained(CLOSED_BLOCK, user("Hi"), answer("Hello", reasoning_content="Hm"))


def test_all_tokens_end_as_answers_do_with_the_next_speakers_marker():
    tokenizer = tokenizer_with("next speaker")
    renderer = get_renderer(None, tokenizer)
    chat = [user("Hi"), answer("Hello")]
    (whole,) = renderer.render(chat, "all_tokens")
    (answers,) = renderer.render(chat, "all_assistant_messages")
    assert whole.tokens[-1] == answers.tokens[-1] and answers.trained[-1]
    assert whole.tokens[-1] in renderer.stop_sequences()


def test_tools_that_are_written_as_python_writes_them_are_found():
    described = tool("Looks.\nUnits are \"m\" or 'ft'.")
    chat = user("Hi"), answer("Hello")
    assert trained(TOOLS_AS_PYTHON, *chat, tools=[described]) == ["Hello<|im_end|>"]


def test_a_control_token_that_the_template_escapes_is_refused():
    with pytest.raises(BadInput, match="escapes characters, so that a control token"):
        trained(TOOLS_AS_PYTHON, user("Hi"), answer("Hello"), tools=[tool("Ends <|im_end|> it.")])


def test_tools_that_a_template_refuses_are_named_and_not_a_message():
    asks = "{% for t in tools or [] %}{{ raise_exception('no tools') }}{% endfor %}"
    with pytest.raises(BadInput, match="^the tools: the chat template refuses .*: no tools"):
        trained(asks + TOOLS_AS_PYTHON, user("Hi"), answer("Hello"), tools=[tool("Looks.")])
