"""Rows of data files as people have them, read for the proof: not with the product's readers."""

from __future__ import annotations

import json
from typing import Any

SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
REASONING = ("reasoning_content", "reasoning", "thinking")


def read(row: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages of a row in one form, and its tools."""
    tools = row.get("tools") or []
    tools = json.loads(tools) if isinstance(tools, str) else tools
    if "messages" in row:
        messages = [_message(message) for message in row["messages"]]
    elif "conversations" in row:
        messages = [_sharegpt(turn) for turn in row["conversations"]]
    else:
        messages = _pairs(row)
    if row.get("system") and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": row["system"]})
    return messages, tools


def _message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    role = "tool" if message["role"] == "function" else message["role"]
    read = {"role": role, "content": content}
    calls = message.get("tool_calls") or []
    if old := message.get("function_call"):
        calls = [{"type": "function", "function": old}]
    if calls:
        read["tool_calls"] = [_call(call) for call in calls]
    if thought := next((message[key] for key in REASONING if message.get(key)), None):
        read["reasoning_content"] = thought
    for key in ("tool_call_id", "name", "weight", "trainable"):
        if message.get(key) is not None:
            read[key] = message[key]
    return read


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if isinstance(function["arguments"], str):
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def _sharegpt(turn: dict[str, Any]) -> dict[str, Any]:
    message = {"role": SHAREGPT[turn["from"]], "content": turn["value"]}
    if turn["from"] == "function_call":
        call = {"type": "function", "function": json.loads(turn["value"])}
        message |= {"content": "", "tool_calls": [_call(call)]}
    return message


def _pairs(row: dict[str, Any]) -> list[dict[str, Any]]:
    question = row.get("prompt") or "\n".join(filter(None, (row["instruction"], row.get("input"))))
    answer = row["completion"] if "completion" in row else row["output"]
    turns = [*row.get("history", []), (question, answer)]
    # Earlier turns are context: only the last answer is trained.
    return [
        {"role": role, "content": words, **({"weight": 0} if early and role != "user" else {})}
        for number, turn in enumerate(turns)
        for early in [number + 1 < len(turns)]
        for role, words in zip(("user", "assistant"), turn, strict=True)
    ]
