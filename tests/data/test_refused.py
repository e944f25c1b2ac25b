"""Every row that is refused by those who read it, with its whole message.

A case is a line and the sentence; FILE stands for the file's path. Whatever a chat
template cannot write is refused later (`tests/rendering`).
"""

import json

import pytest

from tests.data.refusals import (
    EXPECTED,
    SOUND,
    UNPAIRED,
    answer,
    calling,
    chat,
    part,
    refusal,
    user,
)

ROLES = "system, developer, user, assistant, tool"
CALL = '{"type": "function", "function": {"name": …, "arguments": {…}}}'
TEXT_PART = '{"type": "text", "text": …}'


PAIRS = (
    "is preference data (%s), which fine-tuning on answers cannot use as pairs; to train on the "
    'chosen answers, write a file whose lines are {"messages": [the prompt, the chosen answer]}'
)

LINES = {
    # What is no JSON, or no object
    '{"messages": [': "not JSON: Expecting value at column 15",
    '{"messages": "': "not JSON: Unterminated string starting at column 14",
    SOUND + "\0\0": "holds NUL bytes: the file is damaged, or was not written to its end",
    "[1]": "expected a JSON object, found list",
    '{"a": 1} {"a": 2}': "not JSON: Extra data at column 10",
    "3": "expected a JSON object, found int",
    '{"n": ' + "9" * 5000 + "}": "holds an integer of more than 4,300 digits; write it as text, in "
    "quotes",
    '{"messages": [{"role": "user", "content": "A", "content": "B"}]}': "has the key 'content' "
    "twice in one object; keep one of them",
    r'{"messages": [{"role": "user", "content": "\ud800"}]}': "holds half of a surrogate pair, "
    "which is not text",
    "[" * 100_000: "not a conversation: nested too deeply",
    # Messages
    '{"prompt": "hi", "completion": "ho"}': "has no 'messages' (layout messages); it has "
    "'completion', 'prompt'",
    '{"messages": "hello"}': "'messages' is text; expected a list of messages",
    '{"messages": "[{"}': "'messages': text that is not JSON: Expecting property name enclosed "
    "in double quotes at character 3",
    '{"messages": 3}': "expected a list of messages, not int",
    '{"messages": null}': "expected a list of messages, not NoneType",
    '{"messages": ["hello"]}': "message 1: expected {role, content}, not str",
    chat({"content": "hi"}): "message 1: has no 'role'; it has content",
    chat({}): "message 1: has no 'role'; it has nothing",
    chat({"role": "robot", "content": "hi"}): "message 1: the role 'robot' is not one of " + ROLES,
    chat({"role": "asistant", "content": "hi"}): "message 1: the role 'asistant' is not one of "
    f"{ROLES}; did you mean 'assistant'?",
    chat({"role": "moderator", "content": "hi"}): "message 1: the role 'moderator' is not one of "
    + ROLES,
    chat({"role": 3, "content": "hi"}): "message 1: the role 3 is not one of " + ROLES,
    # Content
    chat(user(3)): "message 1: the content is a number; expected text",
    chat(user(None)): "message 1: the content is null; expected text",
    chat(user(), answer(None)): "message 2: the content is null; expected text",
    chat({"role": "user", "text": "hi"}): "message 1: has no 'content'; it has role, text",
    chat(user({"words": "hi"})): "message 1: the content is an object; expected text",
    part({"type": "image_url", "image_url": {"url": "x"}}): "message 1: part 2 of the content is "
    "an image; only text is trained on: leave the row out, or write in words what it shows",
    part({"type": "image"}): "message 1: part 2 of the content is "
    "an image; only text is trained on: leave the row out, or write in words what it shows",
    part({"type": "input_audio", "input_audio": {}}): "message 1: part 2 of the content is "
    "audio; only text is trained on: leave the row out, or write in words what it shows",
    part({"type": "video"}): "message 1: part 2 of the content is "
    "a video; only text is trained on: leave the row out, or write in words what it shows",
    part({"type": "file"}): "message 1: part 2 of the content is "
    "a file; only text is trained on: leave the row out, or write in words what it shows",
    part({"type": "text", "text": "u", "image": "a.png"}): "message 1: part 2 of the content is "
    "an image; only text is trained on: leave the row out, or write in words what it shows",
    part({"text": "u", "image_url": {"url": "x"}}): "message 1: part 2 of the content is "
    "an image; only text is trained on: leave the row out, or write in words what it shows",
    part({"type": "smell", "smell": "x"}): "message 1: part 2 of the content is of the type "
    f"'smell'; expected {TEXT_PART}",
    part({"type": "text", "text": 3}): "message 1: part 2 of the content is of the type 'text'; "
    f"expected {TEXT_PART}",
    part({"words": "hi"}): "message 1: part 2 of the content is of the type 'words'; expected "
    + TEXT_PART,
    part(3): f"message 1: part 2 of the content is a number; expected {TEXT_PART}",
    # What is beside the text
    chat(user(images=["a.png"]), answer()): "message 1: 'images' holds images; only text is "
    "trained on: leave the row out, or write in words what is shown or heard",
    chat(user(), answer(audio={"id": "x"})): "message 2: 'audio' holds audio; only text is trained "
    "on: leave the row out, or write in words what is shown or heard",
    chat(user(), answer(), images=["a.png"]): "'images' holds images; only text is trained on: "
    "leave the row out, or write in words what is shown or heard",
    chat(user(), answer(), video="a.mp4"): "'video' holds a video; only text is trained on: "
    "leave the row out, or write in words what is shown or heard",
    # Loss
    chat(user(), answer(weight=1, train=False)): "message 2: has 'weight' and 'train', which "
    "differ; keep the one that says whether it is trained on",
    chat(user(), answer(train=True, loss=False)): "message 2: has 'train' and 'loss', which "
    "differ; keep the one that says whether it is trained on",
    chat(user(), answer(weight=2)): "message 2: the weight is 2; expected 0 (context) or 1 "
    "(trained)",
    chat(user(), answer(weight=0.5)): "message 2: the weight is 0.5; expected 0 (context) or 1 "
    "(trained)",
    chat(user(), answer(weight="0")): "message 2: the weight is '0'; expected 0 (context) or 1 "
    "(trained)",
    chat(user(), answer(weight=True)): "message 2: the weight is True; expected 0 (context) or 1 "
    "(trained)",
    chat(user(), answer(train="no")): "message 2: 'train' is 'no'; expected true or false",
    chat(user(), answer(train=2)): "message 2: 'train' is 2; expected true or false",
    chat(user(), answer(weight=1, train=0)): "message 2: has 'weight' and 'train', which differ; "
    "keep the one that says whether it is trained on",
    chat(user(), answer(trainable="no")): "message 2: 'trainable' is 'no'; expected true or false",
    # Reasoning
    chat(user(), answer(reasoning="a", thinking="b")): "message 2: has 'reasoning' and 'thinking', "
    "which differ; keep the one to train on",
    chat(user(), answer(thinking=3)): "message 2: 'thinking' is a number; expected text",
    chat(user(), answer([{"type": "thinking", "thinking": "a"}], reasoning="b")): "message 2: has "
    "reasoning both in its content and beside it; keep one",
    chat(user(thinking="hm"), answer()): "message 1: has reasoning; only that of the role "
    "'assistant' is read: put it in the answer that it leads to, or leave it out",
    chat(user([{"type": "thinking", "thinking": "hm"}]), answer()): "message 1: has reasoning; "
    "only that of the role 'assistant' is read: put it in the answer that it leads to, or leave it "
    "out",
    # Two answers
    chat(user(), answer("Yes.", refusal="No.")): "message 2: has a content and a 'refusal' that "
    "differ; keep the one to train on",
    chat(user(), answer("", refusal=["No."])): "message 2: 'refusal' is a list; expected text",
    chat(user(), {"from": "gpt", "value": "Yes.", "content": "No."}): "message 2: has 'value' and "
    "'content', which differ; keep the one to train on",
    # Tools of a system message
    chat(
        {"role": "system", "content": "x", "tools": [{"name": "f"}]},
        answer(),
        tools=[{"name": "g"}],
    ): "message 1: has 'tools' that are not those of the row; put all of "
    "them in the column 'tools'",
    chat({"role": "system", "content": "x", "tools": 3}): "message 1: 'tools' is a number; "
    'expected a list of tools, each {"type": "function", "function": {"name": …, '
    '"parameters": …}}',
    # Calls of tools
    chat(user(tool_calls=[{"name": "weather"}])): "message 1: has a tool call; only the role "
    "'assistant' can call a tool",
    chat(user(), answer(None, tool_calls=3)): "message 2: 'tool_calls' is a number; expected a "
    f"list of calls, each {CALL}",
    chat(user(), answer(None, tool_calls="[")): "message 2: 'tool_calls': text that is not JSON: "
    "Expecting value at character 2",
    calling(3): "message 2: tool call 1: is a number; expected {name, arguments}",
    calling({"function": {"arguments": {}}}): "message 2: tool call 1: has no 'name' of a "
    'function; expected {"function": {"name": …, "arguments": {…}}}',
    calling({"function": {"name": "add", "arguments": "[1]"}}): "message 2: tool call 1: the "
    'arguments of \'add\' are a list; expected a JSON object, such as {"city": "Oslo"}',
    calling({"function": {"name": "add", "arguments": 3}}): "message 2: tool call 1: the "
    'arguments of \'add\' are a number; expected a JSON object, such as {"city": "Oslo"}',
    calling({"function": {"name": "add", "arguments": "{a: 1}"}}): "message 2: tool call 1: the "
    "arguments of 'add': text that is not JSON: Expecting property name enclosed in double "
    "quotes at character 2",
    calling({"function": {"name": "add", "arguments": '{"a": NaN}'}}): "message 2: tool call 1: "
    "the arguments of 'add': nan is no number that JSON has (or one that is too large); leave it "
    "out, or write it as text",
    calling({"function": {"name": "add", "arguments": {"a": [float("inf")]}}}): "message 2: tool "
    "call 1: the arguments of 'add': inf is no number that JSON has (or one that is too large); "
    "leave it out, or write it as text",
    calling({"function": {"name": "add", "arguments": '{"a": -1e400}'}}): "message 2: tool call 1: "
    "the arguments of 'add': -inf is no number that JSON has (or one that is too large); leave it "
    "out, or write it as text",
    calling({"function": {"name": "add", "arguments": '{"a": 1, "a": 2}'}}): "message 2: tool "
    "call 1: the arguments of 'add': has the key 'a' twice in one object; keep one of them",
    calling("f"): "message 2: tool call 1: the call: text that is not JSON: Expecting value at "
    "character 1",
    chat(user(), answer(None, function_call={"arguments": "{}"})): "message 2: has no 'name' of a "
    'function; expected {"function": {"name": …, "arguments": {…}}}',
    # Beside the messages
    chat(user(), answer(), tools={}): "tool 1: has no 'name'; it has nothing",
    chat(user(), chosen=[answer()], rejected=[answer("no")]): PAIRS % "'chosen' and 'rejected'",
    chat(user(), answer(), tools="weather"): "'tools': text that is not JSON: Expecting value at "
    "character 1",
    chat(user(), answer(), tools=3): "'tools' is a number; expected a list of tools, each "
    '{"type": "function", "function": {"name": …, "parameters": …}}',
    chat(user(), answer(), tools=[3]): "tool 1: is a number; expected an object with the "
    "function's name, description and parameters",
    chat(user(), answer(), tools=["f"]): "tool 1: the tool: text that is not JSON: Expecting value "
    "at character 1",
    chat(user(), answer(), tools=[{"parameters": {}}]): "tool 1: has no 'name'; it has parameters",
    chat(
        user(), answer(), system=3
    ): "'system' is int; expected text; write the number in quotes, as text",
    chat({"role": "system", "content": "A"}, answer(), system="B"): "the messages begin with a "
    "system text and 'system' holds another; leave one of them out",
    chat(user(), answer(), chat_template_kwargs="[1]"): "'chat_template_kwargs' is a list; "
    'expected an object, such as {"enable_thinking": false}',
}
"""Second lines of a file whose first one is sound."""


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_a_line_is_refused_by_its_number(line, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{chat(user(), answer())}\n{line}\n{chat(user(), answer())}\n")
    assert refusal(path) == f"FILE line 2: {LINES[line]}"


def of_layout(**row):
    return json.dumps(row)


FIRST_LINES = {
    # What a file is for
    of_layout(a=1, b=2): f"has the columns 'a', 'b'; {EXPECTED}",
    of_layout(Prompt="hi", Completion="ho"): "has the columns 'Completion', 'Prompt'; names of "
    "columns are written in small letters: rename them to 'completion', 'prompt'",
    of_layout(data=[{"prompt": "hi", "completion": "ho"}]): "has the columns 'data', of which "
    "'data' holds a list of objects; if that list is the data, write it as a file of its own, such "
    "as with `jq -c '.[\"data\"][]' OLD > NEW.jsonl`",
    of_layout(): f"has the columns none; {EXPECTED}",
    of_layout(prompt="hi", chosen="ho", rejected="no"): "is preference data ('chosen' and "
    "'rejected'), which fine-tuning on answers cannot use as pairs; to train on the chosen "
    'answers, write a file whose lines are {"messages": [the prompt, the chosen answer]}',
    of_layout(conversations=[user()], chosen=answer(), rejected=answer("no")): PAIRS % "'chosen' "
    "and 'rejected'",
    of_layout(prompt="hi", completion="", chosen="ho", rejected="no"): PAIRS % "'chosen' "
    "and 'rejected'",
    of_layout(
        input={"messages": [user()]},
        preferred_output=[answer()],
        non_preferred_output=[answer("no")],
    ): PAIRS % "'preferred_output' and 'non_preferred_output'",
    of_layout(prompt="hi", completion="ho", label=True): "is preference data ('label' says whether "
    "an answer is good), which fine-tuning on answers cannot use; keep the rows whose label is "
    "true, without that column",
    of_layout(messages=[user(), answer()], label=False): "is preference data ('label' says whether "
    "an answer is good), which fine-tuning on answers cannot use; keep the rows whose label is "
    "true, without that column",
    of_layout(conversations=[user(), answer()], kto_tag=True): "is preference data ('kto_tag' says "
    "whether an answer is good), which fine-tuning on answers cannot use; keep the rows whose "
    "kto_tag is true, without that column",
    **{
        of_layout(prompt="hi", completion="ho", label=label): UNPAIRED
        for label in (0, 1, 1.0, "0", "1", "True", "false", " FALSE ")
    },
    of_layout(messages=[user(), answer()], label="False"): UNPAIRED,
    of_layout(prompt="hi", id=1): "holds prompts without answers ('prompt'; it has the columns "
    "'id', 'prompt'); training needs an answer for each, such as a column 'completion'",
    of_layout(query="hi", answers="[]", tools="[]"): "holds 'query' and 'answers'; expected "
    "'messages', or a column 'completion' with the text of one answer (a call of a tool stands in "
    "the 'tool_calls' of a message)",
    of_layout(segments=[{"label": False, "text": "hi"}, {"label": True, "text": "ho"}]): "has the "
    f"columns 'segments'; {EXPECTED}",
    of_layout(instruction="hi"): "holds prompts without answers ('instruction'; it has the columns "
    "'instruction'); training needs an answer for each, such as a column 'output'",
    # Layouts
    of_layout(prompt="hi", completion=None): "'completion' is NoneType; expected text",
    of_layout(
        prompt=3, completion="ho"
    ): "'prompt' is int; expected text; write the number in quotes, as text",
    of_layout(
        instruction="hi", output=4
    ): "'output' is int; expected text; write the number in quotes, as text",
    of_layout(
        instruction="hi", input=4, output="x"
    ): "'input' is int; expected text; write the number in quotes, as text",
    of_layout(instruction="hi", input=0, output="x"): "'input' is int; expected text; write the "
    "number in quotes, as text",
    of_layout(instruction="hi", input=False, output="x"): "'input' is bool; expected text",
    of_layout(instruction="hi", input=[], output="x"): "'input' is list; expected text",
    of_layout(instruction="hi", output="ho", history=3): "'history' is a number; expected a list "
    "of pairs",
    of_layout(instruction="hi", output="ho", history=[["a"]]): "turn 1 of 'history' is not a pair "
    "of texts; expected [question, answer]",
    of_layout(query="hi", response="ho", history=[["a"]]): "turn 1 of 'history' is not a pair "
    "of texts; expected [question, answer]",
    of_layout(messages=[user(), answer()], history=[["a", "b"]]): "has messages and a 'history' "
    "beside them; expected all turns in one list: put the earlier ones first, or leave the column "
    "out",
    of_layout(prompt=[user()], completion="ho", history=[["a", "b"]]): "has messages and a "
    "'history' beside them; expected all turns in one list: put the earlier ones first, or leave "
    "the column out",
    of_layout(prompt=json.dumps([user()]), completion="ho", history=[["a", "b"]]): "has messages "
    "and a 'history' beside them; expected all turns in one list: put the earlier ones first, or "
    "leave the column out",
    of_layout(text=["hi"]): "'text' is list; expected text",
    of_layout(conversations=[{"from": "alien", "value": "hi"}]): "message 1: the role 'alien' is "
    f"not one of {ROLES}",
    of_layout(conversations=[{"from": "function_call", "value": "weather()"}]): "message 1: the "
    "text of 'function_call': text that is not JSON: Expecting value at character 1",
    of_layout(conversations=[{"from": "function_call", "value": "3"}]): "message 1: the text of "
    "'function_call' is a number; expected JSON: "
    '{"name": …, "arguments": {…}}, or a list of them',
}


@pytest.mark.parametrize("line", FIRST_LINES, ids=lambda line: line[:60])
def test_data_of_another_kind_is_refused_by_what_it_is(line, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(f"\n{line}\n")
    assert refusal(path) == f"FILE line 2: {FIRST_LINES[line]}"
