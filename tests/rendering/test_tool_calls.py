"""Calls of tools: each stands in what is trained, in the form that its template takes."""

import copy

import pytest

from sft.errors import BadInput
from sft.renderers import get_renderer
from sft.rendering.conversations import Conversation
from tests.chat_templates import base_tokenizer

WRITTEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
AS_JSON = WRITTEN.replace("CALL", "[{{ c.function.name }}{{ c.function.arguments | tojson }}]")
FIRST_ALONE = AS_JSON.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
NINE_LETTERS = AS_JSON.replace(
    "[{{", "{% if c.id | length != 9 %}{{ raise_exception('nine!') }}{% endif %}{{ c.id }}[{{"
)


def call(arguments, identifier=None):
    made = {"type": "function", "function": {"name": "run", "arguments": arguments}}
    return made if identifier is None else {**made, "id": identifier}


def turn(*calls, content=""):
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def trained(template, *messages):
    tokenizer = copy.deepcopy(base_tokenizer())
    tokenizer.chat_template = template
    messages = [{"role": "user", "content": "Go."}, *messages]
    sequences = get_renderer(None, tokenizer).render(messages, "all_assistant_messages")
    return "".join(
        tokenizer.decode([t for t, yes in zip(s.tokens, s.trained, strict=True) if yes])
        for s in sequences
    )


def test_arguments_with_indented_text_are_written_as_they_are():
    code = "def f():\n    return 1\n\n\tx  y"
    text = trained(AS_JSON, turn(call({"code": code, "list": [1, {"a": None}]})))
    assert '"code": "def f():\\n    return 1' in text


def test_a_second_call_that_says_the_same_is_missed_if_it_is_left_out():
    assert trained(AS_JSON, turn(call({"n": 1}), call({"n": 1}))).count("run") == 2
    with pytest.raises(BadInput, match="message 2: .*the call of a tool"):
        trained(FIRST_ALONE, turn(call({"n": 1}), call({"n": 1})))


def test_ids_that_a_template_does_not_take_are_numbered_one_for_each_call():
    text = trained(NINE_LETTERS, *(turn(call({"n": n}, "call_1")) for n in range(3)))
    assert [f"call0000{n}" in text for n in (1, 2, 3)] == [True, True, True]


TOOLS = (
    "{% for t in tools %}<|im_start|>system\n{{ t.function.name }}: {{ t.function.description }} "
    "{{ t.function.parameters.properties | list | join }}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(("more", "noted"), [({}, False), ({"pattern": "^[A-Z]"}, True)])
def test_parts_of_a_schema_that_a_template_leaves_out_are_said(more, noted):
    tokenizer = copy.deepcopy(base_tokenizer())
    tokenizer.chat_template = TOOLS + AS_JSON
    schema = {"type": "object", "properties": {"city": {"type": "string", **more}}}
    tool = {"name": "run", "description": "Runs.", "parameters": schema}
    messages = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Yes."}]
    conversation = Conversation(messages, [{"type": "function", "function": tool}])
    (sequence,) = get_renderer(None, tokenizer).render(conversation, "all_assistant_messages")
    said = "the chat template leaves out parts of the tools' parameters"
    assert (said in sequence.notes) is noted
