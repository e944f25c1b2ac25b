"""Conversations of any shape: every word has one fate.

Each word is written once in a conversation, so that it can be found again. Either the row is
refused, or every word of a trained message is trained once and no word of another message is.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sft.errors import BadInput
from sft.renderers import get_renderer
from sft.tokens.datums import conversation_to_datums
from tests.more_chat_templates import NAMES, arguments_of, tokenizer_with
from tests.rendering.oracle import Oracle
from tests.rendering.outcome import conversation, outcome

SEEDED = settings(
    derandomize=True,
    max_examples=30,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
WHAT = ["all_assistant_messages", "last_assistant_message", "last_assistant_turn", "all_messages",
        "all_user_and_system_messages", "customized"]  # fmt: skip
AROUND = ["{}", " {}\n", "\n\n{}", "{} <|im_end|>\n<|im_start|>assistant\n{}", "{}<|eot_id|>",
          "<think>{}", "{} </think> {}", "{}, {}.", "«{}» 👍🏽 e\u0301", "```\n{}\n```", "User: {}",
          "<tool_call>{}</tool_call>", "{{{{ {} }}}}", "'{}' \"{}\"\\", "{}\n<|im_end|>", "",
          ]  # fmt: skip
THOUGHT = ["", "", "field", "text"]


def chats() -> st.SearchStrategy[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Messages and tools; no two words are alike."""
    plan = st.tuples(
        st.sampled_from(["user", "user", "assistant", "assistant", "assistant", "tool", "system",
                         "developer"]),
        st.sampled_from(AROUND),
        st.sampled_from(THOUGHT),
        st.integers(0, 9),  # how many calls
        st.sampled_from([None, None, None, 0, 1]),  # weight
        st.booleans(),  # trainable
    )  # fmt: skip
    sensible = st.lists(plan, min_size=1, max_size=6)
    return st.tuples(sensible, st.booleans(), st.booleans()).map(lambda drawn: _chat(*drawn))


def _chat(plans: list[tuple], orderly: bool, listed: bool) -> tuple[list[dict], list[dict]]:
    number = itertools.count(1)
    messages: list[dict[str, Any]] = []
    calls = 0
    for index, (role, around, thought, many, weight, trainable) in enumerate(plans):
        if orderly and not calls:  # as most data are, which all templates take
            role = ("user", "assistant")[index % 2]
        if calls:
            role, calls = "tool", calls - 1
        elif role == "tool":
            role = "user"
        words = around.format(*(f"w{next(number):03d}e" for _ in range(around.count("{}"))))
        message: dict[str, Any] = {"role": role, "content": words, "trainable": trainable}
        if role == "assistant":
            if thought == "field":
                message["reasoning_content"] = f"w{next(number):03d}e"
            elif thought == "text":
                message["content"] = f"<think>\nw{next(number):03d}e\n</think>\n\n{words}"
            calls = max(0, many - 7)
            if calls:
                message["tool_calls"] = [_call(number) for _ in range(calls)]
            if weight is not None:
                message["weight"] = weight
        messages.append(message)
    names = [c["function"]["name"] for m in messages for c in m.get("tool_calls", ())]
    return messages, [_tool(name, number) for name in names if listed]


def _call(number: itertools.count[int]) -> dict[str, Any]:
    a, b, c = (f"w{next(number):03d}e" for _ in range(3))
    return {"type": "function", "function": {"name": a, "arguments": {"x": b, "y": [{"z": c}]}}}


def _tool(name: str, number: itertools.count[int]) -> dict[str, Any]:
    about = f"w{next(number):03d}e"
    parameters = {"type": "object", "properties": {}}
    function = {"name": name, "description": about, "parameters": parameters}
    return {"type": "function", "function": function}


def words_of(message: dict[str, Any]) -> set[str]:
    return set(re.findall(r"w\d{3}e", str(message)))


def is_trained(messages: list[dict[str, Any]], what: str) -> list[bool]:
    roles = [message["role"] for message in messages]
    last = {
        role: max((i for i, r in enumerate(roles) if r == role), default=-1) for role in set(roles)
    }
    named = {
        "all_assistant_messages": [role == "assistant" for role in roles],
        "last_assistant_message": [i == last.get("assistant", -1) for i in range(len(roles))],
        "last_assistant_turn": [
            role == "assistant" and i > last.get("user", -1) for i, role in enumerate(roles)
        ],
        "all_messages": [True for _ in roles],
        "all_user_and_system_messages": [r in ("user", "system", "developer") for r in roles],
        "customized": [message["trainable"] for message in messages],
    }[what]
    return [
        yes and message.get("weight") != 0 for yes, message in zip(named, messages, strict=True)
    ]


@functools.cache
def renderer_of(name: str) -> Any:
    kind = "role_colon" if name == "role_colon" else None
    return get_renderer(kind, tokenizer_with(name), arguments_of(name))


def trained_text(name: str, sequences: list[Any]) -> str:
    tokenizer, runs = tokenizer_with(name), []
    for sequence in sequences:
        pairs = zip(sequence.tokens, sequence.trained, strict=True)
        for yes, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
            if yes:
                runs.append(tokenizer.decode([token for token, _ in run]))
    return "\n".join(runs)


@pytest.mark.parametrize("name", NAMES)
@given(chat=chats(), what=st.sampled_from(WHAT))
@SEEDED
def test_each_word_is_trained_once_or_not_at_all_or_the_row_is_refused(name, chat, what):
    messages, tools = chat
    try:
        sequences = renderer_of(name).render(conversation(messages, tools), what)
    except BadInput:
        return
    text = trained_text(name, sequences)
    yes = is_trained(messages, what)
    trained = {w for m, t in zip(messages, yes, strict=True) if t for w in words_of(m)}
    others = {w for m in [*messages, *tools] for w in words_of(m)} - trained
    assert {word: text.count(word) for word in trained} == dict.fromkeys(trained, 1)
    assert {word for word in others if word in text} == set()


@pytest.mark.parametrize("name", NAMES)
@given(chat=chats())
@SEEDED
def test_answers_are_trained_as_they_are_sampled(name, chat):
    oracle = Oracle(tokenizer_with(name), arguments_of(name))
    row = {"messages": chat[0], "tools": chat[1]}
    kind, notes = outcome(oracle, renderer_of(name), row)
    assert kind != "wrong", notes


@pytest.mark.parametrize("name", ["smollm2", "qwen3", "next speaker", "last question"])
@given(chat=chats(), length=st.integers(2, 60))
@SEEDED
def test_what_is_cut_keeps_its_beginning(name, chat, length):
    renderer = renderer_of(name)
    try:
        whole = conversation_to_datums(conversation(*chat), renderer)
        cut = conversation_to_datums(conversation(*chat), renderer, max_length=length)
    except BadInput:
        return
    beginnings = [(tokens[:length], mask[:length]) for tokens, mask in map(sequence_of, whole)]
    assert [sequence_of(datum) for datum in cut] == [
        (tokens, mask) for tokens, mask in beginnings if any(mask)
    ]


def sequence_of(datum: Any) -> tuple[list[int], list[bool]]:
    """The tokens of a datum, and for each but the first whether it is trained."""
    targets = datum.loss_fn_inputs["target_tokens"].tolist()
    weights = datum.loss_fn_inputs["weights"].tolist()
    tokens = [*datum.model_input.to_ints(), *targets[-1:]]
    return tokens, [False, *(weight > 0 for weight in weights)]
