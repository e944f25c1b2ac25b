"""The forms in which a conversation may be handed to a chat template."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.rendering.words import THINK, leaves, split

MESSAGE_FIELDS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class Form:
    """A conversation as a template may be given it."""

    name: str
    messages: list[dict[str, Any]]
    hidden: dict[str, str]
    """What stands in the messages in place of control tokens: they are to be text."""
    cut: frozenset[str]
    """Markers that are taken off where an answer already ends with one."""
    thinks: bool
    """Whether no thought is left within the text."""


def forms(
    messages: list[dict[str, Any]], markers: re.Pattern[str], ends: list[str]
) -> Iterator[Form]:
    """The forms of a conversation, the one that it has first.

    Args:
        markers: what a control token looks like.
        ends: the marker that ends an answer, and that of the text; data may have them already.
    """
    seen: list[Any] = []
    thinks = any(split(m)[0] for m in messages if m["role"] == "assistant")
    calls = any(m.get("tool_calls") for m in messages)
    develops = any(m["role"] == "developer" for m in messages)
    marked = any(markers.search(text) for m in messages for text in _texts(m))
    for thought, detail, ids, role, marker in itertools.product(
        ("", "as a field", "in the text", "as thinking") if thinks else ("",),
        ("", "null", "absent", "text", "text, null", "parts") if calls else ("", "parts"),
        ("", "ids", "new ids") if calls else ("",),
        ("", "system") if develops else ("",),
        ("", "hidden", "hidden, cut", "hidden, all cut") if marked else ("",),
    ):
        made, hidden = [], {}
        cut = ends if "all" in marker else ends[:1] if "cut" in marker else []
        for message in messages:
            one = _with_thought(without_end(message, cut), thought)
            if role and one["role"] == "developer":
                one["role"] = role
            if marker:
                _hide(one, hidden, markers)
            made.append(_with_calls(one, detail))
        if ids:
            _add_ids(made, ids == "new ids")
        if made not in seen:
            seen.append(made)
            name = f"{thought} {detail} {ids} {role} {marker}".strip()
            answers = [m for m in made if m["role"] == "assistant"]
            inside = any(THINK.match(text) for m in answers for text in [m.get("content") or ""]
                         if isinstance(text, str))  # fmt: skip
            yield Form(name, made, hidden, frozenset(cut), not inside)


def typed(messages: list[dict[str, Any]], markers: re.Pattern[str]) -> set[str]:
    """The control tokens in what messages say."""
    texts = [text for message in messages for text in _texts(message)]
    return {found for text in texts for found in markers.findall(text)}


def without_end(message: dict[str, Any], ends: Iterable[str]) -> dict[str, Any]:
    """The message without a marker of `ends` that its answer already ends with."""
    content = message["content"].rstrip()
    found = next((end for end in ends if content.endswith(end)), None)
    if found is None or message["role"] != "assistant":
        return message
    return {**message, "content": content.removesuffix(found)}


def _hide(message: dict[str, Any], hidden: dict[str, str], markers: re.Pattern[str]) -> None:
    """Put words in place of all that looks like a control token, but a leading thought's."""
    content = message.get("content") or ""
    begun = THINK.match(content) if message["role"] == "assistant" else None

    def word(match: re.Match[str]) -> str:
        inside = f"HIDDEN{len(hidden)}MARKER"
        hidden[inside] = match[0]
        return inside

    def change(text: str) -> str:
        return markers.sub(word, text)

    if begun and not message.get("reasoning_content"):
        inner, behind = content[begun.start(1) : begun.end(1)], content[begun.end(1) + 8 :]
        message["content"] = f"<think>{change(inner)}</think>{change(behind)}"
    elif content:
        message["content"] = change(content)
    for key in MESSAGE_FIELDS:
        if message.get(key):
            message[key] = change(message[key])
    if calls := message.get("tool_calls"):
        written = change(json.dumps(calls, ensure_ascii=False))
        message["tool_calls"] = json.loads(written)


def _texts(message: dict[str, Any]) -> Iterator[str]:
    content = message.get("content") or ""
    content = content if isinstance(content, str) else content[0]["text"]
    if message["role"] == "assistant" and (found := THINK.match(content)):
        yield from (found[1], found[2])
    else:
        yield content
    yield from (message[key] for key in MESSAGE_FIELDS if message.get(key))
    for call in message.get("tool_calls") or []:
        arguments = call["function"]["arguments"]
        yield from [arguments] if isinstance(arguments, str) else leaves(arguments)


def _with_thought(message: dict[str, Any], how: str) -> dict[str, Any]:
    message = {k: v for k, v in copy.deepcopy(message).items() if k not in ("weight", "trainable")}
    thought, content = split(message)
    if not how or message["role"] != "assistant" or not thought:
        return message
    message.pop("reasoning_content", None)
    content = content.lstrip("\n")
    if how == "in the text":
        return {**message, "content": f"<think>\n{thought.strip()}\n</think>\n\n{content}"}
    name = "thinking" if how == "as thinking" else "reasoning_content"
    return {**message, name: thought.strip(), "content": content}


def _with_calls(message: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "parts":
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    if not message.get("tool_calls"):
        return message
    message = copy.deepcopy(message)
    if how.startswith("text"):
        for call in message["tool_calls"]:
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    if "null" in how and not message["content"]:
        message["content"] = None
    if how == "absent" and not message["content"]:
        del message["content"]
    return message


def _add_ids(messages: list[dict[str, Any]], anew: bool) -> None:
    """Give an id to each call without one (or to all, `anew`), and to the answers of tools."""
    waiting: list[dict[str, Any]] = []
    number, changed = 0, {}
    for message in messages:
        for call in message.get("tool_calls") or []:
            number += 1
            fresh = f"call{number:05d}"
            if anew and "id" in call:
                changed[call["id"]] = fresh
                call["id"] = fresh
            call.setdefault("id", fresh)
            waiting.append(call)
        if message["role"] == "tool" and waiting:
            call = waiting.pop(0)
            message.setdefault("tool_call_id", call["id"])
            message.setdefault("name", call["function"]["name"])
            message["tool_call_id"] = changed.get(message["tool_call_id"], message["tool_call_id"])
