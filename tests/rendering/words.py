"""The words of messages, and whether they stand in a text."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

THINK = re.compile(r"\s*<think>(.*?)</think>(.*)\Z", re.DOTALL)


def pieces(message: dict[str, Any]) -> list[str]:
    """The words of a message, in order: reasoning, content, names and arguments of calls.

    >>> pieces({"content": "<think>Hm.</think>Yes.", "role": "assistant"})
    ['Hm.', 'Yes.']
    """
    thought, content = split(message)
    found = [thought, content]
    for call in message.get("tool_calls") or []:
        found += [call["function"]["name"], *leaves(call["function"]["arguments"])]
    return [piece.strip() for piece in found if piece.strip()]


def split(message: dict[str, Any]) -> tuple[str, str]:
    """Reasoning and content of a message."""
    content = message["content"]
    if message["role"] == "assistant" and not message.get("reasoning_content"):
        if found := THINK.match(content):
            return found[1], found[2]
    return message.get("reasoning_content") or "", content


def leaves(value: Any) -> Iterator[str]:
    """Keys and values of arguments, as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def spellings(piece: str) -> list[str]:
    """How a template may write it: as it is, or in one of the ways of JSON and Python."""
    found = [piece, *(json.dumps(piece, ensure_ascii=ascii)[1:-1] for ascii in (False, True))]
    found.append(repr(piece)[1:-1])  # Python's own, of templates that write calls as its code
    found += {"true": ["True"], "false": ["False"], "null": ["None"]}.get(piece, [])
    # Jinja's own `tojson` writes the characters of HTML so.
    found.append(piece.replace("'", "\\u0027").replace("<", "\\u003c").replace(">", "\\u003e"))
    return [normal(one) for one in found]


def position(piece: str, text: str) -> int:
    """Where `piece` stands in `text`; -1 if nowhere."""
    return min((at for one in spellings(piece) if (at := text.find(one)) >= 0), default=-1)


def missing(message: dict[str, Any], text: str) -> list[str]:
    """The words of a message that `text` lacks; reasoning and content in their order."""
    gone = [piece for piece in pieces(message) if position(piece, text) < 0]
    thought, content = (normal(part.strip()) for part in split(message))
    if not gone and thought and content and text.find(content) < text.find(thought):
        gone.append(thought)
    return gone


def double_encoded(message: dict[str, Any], text: str) -> bool:
    """Whether arguments are JSON text within JSON."""
    return any(
        f'\\"{key}\\"' in text
        for call in message.get("tool_calls") or []
        for key in call["function"]["arguments"]
    )


def lost(messages: list[dict], tools: list[dict], j: int, text: str) -> list[str]:
    """What was said before message `j`, and the tools, as far as `text` lacks them."""
    text, gone = normal(text), []
    for number, message in enumerate(messages[:j], start=1):
        words = pieces(message)
        if split(message)[0].strip():
            words = words[1:]  # templates drop earlier thoughts: those have sequences of their own
        gone += [f"message {number}: {short(p)}" for p in words if position(p, text) < 0]
    for tool in tools:
        function = tool["function"]
        for words in (function["name"], function.get("description", "")):
            if position(words, text) < 0:
                gone.append(f"tool {short(words)}")
    return gone


def said_in(rest: str, message: dict[str, Any]) -> bool:
    """Whether words of the message stand in what a sequence leaves out."""
    return any(piece in rest for piece in pieces(message) if len(piece) > 3)


def trained(messages: list[dict[str, Any]], train_on_what: str) -> list[int]:
    """The numbers of the messages that are to be trained."""
    answers = [
        i
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight", 1) != 0
    ]
    if train_on_what == "last_assistant_message":
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        return [i for i in answers if i == last]
    assert train_on_what == "all_assistant_messages"
    return answers


def short(text: str, length: int = 70) -> str:
    shown = repr(text)
    return shown if len(shown) <= length else f"{shown[: length // 2]} … {shown[-length // 2 :]}"
