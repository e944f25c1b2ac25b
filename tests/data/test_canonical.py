"""Every form of a chat message that is in use becomes one form, and nothing vanishes."""

import json
import math

import pytest

from sft.data.reading import Reading
from sft.rendering.conversations import Conversation

USER = {"role": "user", "content": "Weather in Oslo?"}
ANSWER = {"role": "assistant", "content": "It is 4."}
SYSTEM = {"role": "system", "content": "Be brief."}
FUNCTION = {"name": "weather", "description": "Of a city", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "4 degrees"}


def read(row, **settings):
    return Reading(**settings).conversation(row, "chats.jsonl line 1")


def call(arguments):
    return {"function": {"name": "weather", "arguments": arguments}}


# One message


MESSAGES = {
    "as it should be": (CALLING, CALLING),
    "arguments as JSON text": (
        {**CALLING, "tool_calls": [call('{"city": "Oslo"}')]}, CALLING),
    "content null beside a call": ({**CALLING, "content": None}, CALLING),
    "no content beside a call": ({"role": "assistant", "tool_calls": [CALL]}, CALLING),
    "calls as JSON text": ({**CALLING, "tool_calls": json.dumps([CALL])}, CALLING),
    "a call without type": ({**CALLING, "tool_calls": [call({"city": "Oslo"})]}, CALLING),
    "just name and arguments": ({**CALLING, "tool_calls": [CALL["function"]]}, CALLING),
    "parameters in place of arguments": (
        {**CALLING, "tool_calls": [{"name": "weather", "parameters": {"city": "Oslo"}}]}, CALLING),
    "old function_call": (
        {"role": "assistant", "content": None,
         "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}}, CALLING),
    "no arguments": (
        {**CALLING, "tool_calls": [{"function": {"name": "now"}}]},
        {**CALLING, "tool_calls": [
            {"type": "function", "function": {"name": "now", "arguments": {}}}]}),
    "empty arguments": (
        {**CALLING, "tool_calls": [{"function": {"name": "now", "arguments": ""}}]},
        {**CALLING, "tool_calls": [
            {"type": "function", "function": {"name": "now", "arguments": {}}}]}),
    "an id": (
        {**CALLING, "tool_calls": [{"id": "c1", **CALL["function"]}]},
        {**CALLING, "tool_calls": [{"id": "c1", **CALL}]}),
    "no call at all": ({**ANSWER, "tool_calls": []}, ANSWER),
    "role function": ({"role": "function", "name": "weather", "content": "4"},
                      {"role": "tool", "name": "weather", "content": "4"}),
    "a tool that says nothing": ({"role": "tool", "content": None},
                                 {"role": "tool", "content": ""}),
    "role developer": ({"role": "developer", "content": "x"},
                       {"role": "developer", "content": "x"}),
    "parts": (
        {"role": "user", "content": [{"type": "text", "text": "Part one."},
                                     {"type": "text", "text": "Part two.", "image": None}]},
        {"role": "user", "content": "Part one.Part two."}),
    "parts whose other fields a table has filled in": (
        {"role": "user", "content": [{"type": "text", "text": "a", "image_url": {"url": None}}]},
        {"role": "user", "content": "a"}),
    "parts that are texts": ({"role": "user", "content": ["a", "b"]},
                             {"role": "user", "content": "ab"}),
    "parts without type": ({"role": "user", "content": [{"text": "a"}]},
                           {"role": "user", "content": "a"}),
    "parts of the Responses API": (
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"role": "assistant", "content": "a"}),
    "a part that is thinking": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"},
                                          {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "a", "reasoning_content": "hm"}),
    "reasoning_content": ({**ANSWER, "reasoning_content": "hm"},
                          {**ANSWER, "reasoning_content": "hm"}),
    "reasoning": ({**ANSWER, "reasoning": "hm"}, {**ANSWER, "reasoning_content": "hm"}),
    "thinking": ({**ANSWER, "thinking": "hm"}, {**ANSWER, "reasoning_content": "hm"}),
    "the same reasoning twice": ({**ANSWER, "thinking": "hm", "reasoning": "hm"},
                                 {**ANSWER, "reasoning_content": "hm"}),
    "reasoning beside no content": ({"role": "assistant", "content": None, "reasoning": "hm"},
                                    {"role": "assistant", "content": "",
                                     "reasoning_content": "hm"}),
    "reasoning in the text is the renderer's": (
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nx"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nx"}),
    "a refusal": ({"role": "assistant", "content": None, "refusal": "No."},
                  {"role": "assistant", "content": "No."}),
    "a refusal beside an empty content": (
        {"role": "assistant", "content": "", "refusal": "No."},
        {"role": "assistant", "content": "No."}),
    "a refusal beside a call": ({**CALLING, "refusal": "No."}, {**CALLING, "content": "No."}),
    "weight 0": ({**ANSWER, "weight": 0}, {**ANSWER, "weight": 0}),
    "not to be trained on": ({**ANSWER, "train": False}, {**ANSWER, "weight": 0}),
    "without loss": ({**ANSWER, "loss": False, "weight": 0}, {**ANSWER, "weight": 0}),
    "to be trained on": ({**ANSWER, "train": True, "loss": True}, {**ANSWER, "weight": 1}),
    "not to be trained on, as 0": ({**ANSWER, "train": 0}, {**ANSWER, "weight": 0}),
    "without loss, as 0.0 of a table": ({**ANSWER, "loss": 0.0}, {**ANSWER, "weight": 0}),
    "to be trained on, as 1": ({**ANSWER, "train": 1, "loss": 1}, {**ANSWER, "weight": 1}),
    "a loss that is a number": ({**ANSWER, "loss": 0.5}, {**ANSWER, "loss": 0.5}),
    "weight 1.0, of a table": ({**ANSWER, "weight": 1.0}, {**ANSWER, "weight": 1}),
    "trainable": ({**ANSWER, "trainable": False}, {**ANSWER, "trainable": False}),
    "nulls": ({**ANSWER, "name": None, "weight": None, "tool_calls": None}, ANSWER),
    "ShareGPT": ({"from": "gpt", "value": "It is 4."}, ANSWER),
    "ShareGPT beside an empty content": (
        {"from": "gpt", "value": "It is 4.", "content": ""}, ANSWER),
    "ShareGPT that says it twice": (
        {"from": "gpt", "value": "It is 4.", "content": "It is 4."}, ANSWER),
    "ShareGPT with a weight": ({"from": "gpt", "value": "It is 4.", "weight": 0},
                               {**ANSWER, "weight": 0}),
    "ShareGPT's names as roles": ({"role": "gpt", "content": "It is 4."}, ANSWER),
    "another capital": ({"role": "Assistant", "content": "It is 4."}, ANSWER),
    "ShareGPT's in capitals": ({"from": "GPT", "value": "It is 4."}, ANSWER),
    "LLaMA-Factory's call": (
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        CALLING),
    "LLaMA-Factory's calls": (
        {"from": "function_call", "value": json.dumps([CALL["function"], CALL["function"]])},
        {**CALLING, "tool_calls": [CALL, CALL]}),
    "role tool_call": (
        {"role": "tool_call",
         "content": json.dumps({"name": "weather", "arguments": '{"city": "Oslo"}'})},
        CALLING),
    "observation": ({"from": "observation", "value": "4 degrees"}, RESULT),
    "role tool_response": ({"role": "tool_response", "content": "4 degrees"}, RESULT),
    "a field of a template's own": ({**ANSWER, "mood": "glad"}, {**ANSWER, "mood": "glad"}),
}  # fmt: skip


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_in_any_form(case):
    given, expected = MESSAGES[case]
    for column in ("messages", "conversations"):
        assert read({column: [USER, given]}).messages == [USER, expected]


def test_a_call_keeps_the_order_that_it_was_written_in():
    given = {
        "id": "c1",
        "type": "function",
        "function": {"arguments": {"b": 1, "a": 2}, "name": "f"},
    }
    made = read({"messages": [USER, {**CALLING, "tool_calls": [given]}]}).messages[1]
    assert json.dumps(made["tool_calls"][0]) == json.dumps(given)


@pytest.mark.parametrize(
    ("message", "note"),
    [
        ({**CALLING, "tool_calls": [call("{}")]}, "tool arguments read from JSON text"),
        ({**CALLING, "tool_calls": None, "function_call": CALL["function"]},
         "function_call read as a tool call"),
        ({"role": "user", "content": ["a", "b"]}, "content joined from parts"),
        ({"role": "assistant", "content": ["a", {"type": "thinking", "thinking": "hm"}]},
         "reasoning put in front of the text that it stands behind"),
    ],
)  # fmt: skip
def test_what_is_changed_is_noted_once(message, note):
    assert read({"messages": [message, message]}).notes == (note,)


def test_nulls_that_are_left_out_of_arguments_are_noted():
    row = {"messages": [{**CALLING, "tool_calls": [call({"city": "Oslo", "n": None})]}]}
    made = read(row, filled=True)
    assert made.messages == [CALLING]
    assert made.notes == ("nulls left out of tool arguments (a table fills them in)",)


def test_fields_that_only_a_template_could_read_are_gathered():
    reading = Reading()
    reading.conversation({"messages": [USER, {**ANSWER, "mood": "glad"}]}, "line 1")
    reading.conversation({"messages": [USER, {**ANSWER, "date": "x", "name": "y"}]}, "line 2")
    assert list(reading.fields) == ["mood", "date"]


# Beside the messages


TOOLS = {
    "as they should be": [TOOL],
    "JSON text": json.dumps([TOOL]),
    "one of them": TOOL,
    "each JSON text": [json.dumps(TOOL)],
    "bare functions": [FUNCTION],
    "bare functions as JSON text": json.dumps([FUNCTION]),
    "without type": [{"function": FUNCTION}],
    "of the Responses API": [{"type": "function", **FUNCTION}],
}


@pytest.mark.parametrize("column", ["tools", "functions"])
@pytest.mark.parametrize("case", TOOLS)
def test_tools_in_any_form(case, column):
    row = {"messages": [USER, ANSWER], column: TOOLS[case]}
    assert read(row) == Conversation([USER, ANSWER], [TOOL])


@pytest.mark.parametrize("nothing", [None, "", [], "[]", "null", "None", "nan", math.nan])
def test_no_tools(nothing):
    assert read({"messages": [USER, ANSWER], "tools": nothing}).tools == []


def test_nulls_that_a_table_fills_in_are_no_part_of_a_tool():
    tool = {"type": "function", "function": {**FUNCTION, "strict": None}}
    row = {"messages": [USER, ANSWER], "tools": [tool]}
    assert read(row, filled=True).tools == [TOOL]
    assert read(row).tools == [tool]


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_text_beside_the_messages_leads_them(column):
    assert read({"messages": [USER, ANSWER], column: "Be brief."}).messages == [
        SYSTEM, USER, ANSWER,
    ]  # fmt: skip
    assert read({"messages": [SYSTEM, USER], column: "Be brief."}).messages == [SYSTEM, USER]
    for nothing in ("", None):
        assert read({"messages": [USER, ANSWER], column: nothing}).messages == [USER, ANSWER]


@pytest.mark.parametrize("value", [{"enable_thinking": False}, '{"enable_thinking": false}'])
def test_a_row_has_template_values_of_its_own(value):
    row = {"messages": [USER, ANSWER], "chat_template_kwargs": value}
    assert read(row).template == {"enable_thinking": False}


@pytest.mark.parametrize("label", ["sports", 2, "2", "", None])
@pytest.mark.parametrize("pair", [{"prompt": "hi", "completion": "ho"}, {"messages": [ANSWER]}])
def test_a_label_that_is_a_class_is_a_column_like_others(label, pair):
    reading = Reading()
    reading.conversation({**pair, "label": label}, "line 1")
    assert list(reading.unused) == ["label"]


# Layouts


LAYOUTS = {
    "alpaca": {"instruction": "Weather in Oslo?", "input": "", "output": "It is 4."},
    "Dolly": {"instruction": "Weather in Oslo?", "context": "", "response": "It is 4."},
    "instruction and response": {"instruction": "Weather in", "input": "Oslo?",
                                 "response": "It is 4."},
    "prompt and completion": {"prompt": "Weather in Oslo?", "completion": "It is 4."},
    "as messages": {"prompt": [USER], "completion": [ANSWER]},
    "text and messages": {"prompt": "Weather in Oslo?", "completion": [ANSWER]},
    "messages and text": {"prompt": [USER], "completion": "It is 4."},
    "as messages in text": {"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])},
    "as pandas writes messages": {"prompt": str([USER]), "completion": str([ANSWER])},
    "text and messages in text": {"prompt": USER["content"], "completion": json.dumps([ANSWER])},
    "ShareGPT's in text": {
        "prompt": json.dumps([{"from": "human", "value": USER["content"]}]),
        "completion": ANSWER["content"]},
    "one message": {"prompt": USER, "completion": ANSWER},
    "prompt and response": {"prompt": "Weather in Oslo?", "response": "It is 4."},
    "question and answer": {"question": "Weather in Oslo?", "answer": "It is 4."},
    "query and response": {"query": "Weather in Oslo?", "response": "It is 4."},
    "input and output": {"input": "Weather in Oslo?", "output": "It is 4."},
    "conversation": {"conversation": [USER, ANSWER]},
    "dialog": {"dialog": [USER, ANSWER]},
    "dialogue": {"dialogue": [USER, ANSWER]},
    "messages as text": {"messages": json.dumps([USER, ANSWER])},
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_row_in_any_layout(case):
    row = {**LAYOUTS[case], "system": "Be brief.", "tools": [FUNCTION], "id": 3}
    reading = Reading()
    made = reading.conversation(row, "line 1")
    user = {**USER, "content": "Weather in\n\nOslo?"} if row.get("input") == "Oslo?" else USER
    assert made == Conversation([SYSTEM, user, ANSWER], [TOOL])
    assert list(reading.unused) == ["id"]


@pytest.mark.parametrize(
    "words",
    ["[1, 2]", "[]", '["a"]', '[{"city": "Oslo"}]', '{"role": "user", "content": "hi"}', "[oops",
     '[{"role": "admin", "content": "hi"}]', '[{"from": "Oslo", "value": 3}]',
     '[{"role": "user", "content": "hi"}, 3]'],
)  # fmt: skip
def test_an_answer_in_json_that_is_no_list_of_messages_is_text(words):
    assert read({"prompt": words, "completion": words}).messages == [
        {"role": "user", "content": words},
        {"role": "assistant", "content": words},
    ]


def test_orcas_columns():
    row = {"id": 1, "system_prompt": "Be brief.", "question": "Weather in Oslo?",
           "response": "It is 4."}  # fmt: skip
    assert read(row).messages == [SYSTEM, USER, ANSWER]


def test_raw_text_is_no_chat():
    reading = Reading()
    made = reading.conversation({"text": "Once upon a time", "system": "x"}, "line 1")
    assert made == Conversation([], text="Once upon a time")
    assert list(reading.unused) == ["system"]


@pytest.mark.parametrize("form", [list, json.dumps])
def test_turns_of_a_history_are_context(form):
    past = form([["Name a country", "Norway"]])
    row = {"instruction": "And its capital?", "output": "Oslo", "history": past}
    swift = {"query": "And its capital?", "response": "Oslo", "history": past}
    assert (
        read(row).messages
        == read(swift).messages
        == [
            {"role": "user", "content": "Name a country"},
            {"role": "assistant", "content": "Norway", "weight": 0},
            {"role": "user", "content": "And its capital?"},
            {"role": "assistant", "content": "Oslo"},
        ]
    )


@pytest.mark.parametrize("empty", [None, "", "[]", []])
def test_a_history_or_an_image_that_is_nothing_is_passed_over(empty):
    row = {"messages": [USER, {**ANSWER, "audio": None}], "history": empty, "label": None}
    images = None if empty == "[]" else empty
    assert read({**row, "images": images, "video": [None]}).messages == [USER, ANSWER]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_tools_of_a_system_message_are_the_rows(role):
    system = {"role": role, "content": "Be brief."}
    within = {**system, "tools": json.dumps([FUNCTION])}
    for beside in ({}, {"tools": [TOOL]}, {"tools": None}):
        made = read({"messages": [within, USER, ANSWER], **beside})
        assert made == Conversation([system, USER, ANSWER], [TOOL])


def test_answers_within_a_prompt_are_context_unless_they_say_otherwise():
    prompt = [USER, ANSWER, {**ANSWER, "weight": 1}, {**ANSWER, "train": True}, USER]
    made = read({"prompt": prompt, "completion": [ANSWER, USER, ANSWER]}).messages
    assert [message.get("weight") for message in made] == [None, 0, 1, 1, None, None, None, None]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "User", "content": "a"},
        {"from": "prompter", "value": "a"},
        {"role": None, "from": "human", "value": "a"},
        {"from": "observation", "value": "a"},
        {"role": "SYSTEM", "content": "a"},
    ],
)
def test_context_within_a_prompt_has_no_weight_whatever_its_role_is_called(message):
    made = read({"prompt": [message], "completion": "b"}).messages
    assert "weight" not in made[0]


@pytest.mark.parametrize("name", ["GPT", " assistant ", "bot"])
def test_an_answer_within_a_prompt_is_context_whatever_its_role_is_called(name):
    made = read({"prompt": [{"role": name, "content": "a"}], "completion": "b"}).messages
    assert made[0] == {"role": "assistant", "content": "a", "weight": 0}


def test_the_first_row_decides_the_layout_and_others_may_lack_what_is_optional():
    reading = Reading()
    reading.conversation({"instruction": "a", "input": "b", "output": "c"}, "line 1")
    made = reading.conversation({"instruction": "a", "output": "c", "extra": 1}, "line 2")
    assert made.messages[0]["content"] == "a" and list(reading.unused) == ["extra"]
