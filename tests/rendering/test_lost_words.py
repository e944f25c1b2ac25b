"""What a template leaves out is missed although something else says the same."""

import copy

import pytest

from sft.errors import BadInput
from sft.renderers import get_renderer
from sft.rendering.conversations import Conversation
from tests.more_chat_templates import tokenizer_with

WITHOUT_TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\nname: {{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nname: {% endif %}"
)


def renderer(template=WITHOUT_TOOLS, **settings):
    tokenizer = copy.deepcopy(tokenizer_with("smollm2"))
    tokenizer.chat_template = template
    return get_renderer(None, tokenizer, **settings)


def user(words):
    return {"role": "user", "content": words}


def answer(words, **fields):
    return {"role": "assistant", "content": words, **fields}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name, **more):
    return {"type": "function", "function": {"name": name, "parameters": {}, **more}}


LOST = {
    "a thought that the answer holds": (
        [user("2+2?"), answer("It is 4.", reasoning_content="4")], [],
        "message 2: .* its reasoning .'4'",
    ),
    "a thought that the answer is": (
        [user("2+2?"), answer("4", reasoning_content="4")], [], "message 2: .* its reasoning",
    ),
    "a call of what the question names": (
        [user("run lima?"), answer("go", tool_calls=[call("run", to="lima")])], [],
        "message 2: .* the call of a tool .'run'",
    ),
    "a tool that the question names": (
        [user("please search"), answer("ok")], [tool("search")],
        "the tools: .* the name of a tool .'search'",
    ),
    "a tool described in words of the question": (
        [user("search: finds it"), answer("ok")], [tool("search", description="finds it")],
        "the tools: .* a tool",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_what_is_left_out_is_missed_although_its_words_stand_elsewhere(case):
    messages, tools, said = LOST[case]
    with pytest.raises(BadInput, match=said):
        renderer().render(Conversation(messages, tools), "all_assistant_messages")


@pytest.mark.parametrize("case", LOST)
def test_it_is_trained_without_if_that_is_asked_for_and_said(case):
    messages, tools, _ = LOST[case]
    (rendered,) = renderer(lost_words=True).render(
        Conversation(messages, tools), "all_assistant_messages"
    )
    assert any(note.startswith("trained without ") for note in rendered.notes)


def test_names_of_those_who_speak_are_said_to_be_left_out():
    chat = [{**user("Hi."), "name": "bob"}, answer("Ho.", name="eve")]
    (rendered,) = renderer().render(chat, "all_assistant_messages")
    assert rendered.notes == ("the chat template leaves out the names of those who speak",)
