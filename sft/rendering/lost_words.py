"""That every word of the data stands in what is trained, or in its context.

A chat template may leave words out without a sound: the text beside a tool call, tools, reasoning,
a system prompt. What a row has and its sequence has not is named here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sft.errors import BadInput
from sft.rendering.control_tokens import whole
from sft.rendering.conversations import Messages

WHITE_SPACE = "the chat template changes the white space around the words"
SCHEMAS = "the chat template leaves out parts of the tools' parameters"
WHAT_TO_DO = (
    "take another model.renderer or model.chat_template_kwargs, change the row, or set "
    "dataset.on_lost=leave_out or train"
)


class Lost(BadInput):
    """Words that the chat template does not write."""


def check_trained(message: dict[str, Any], number: int, text: str) -> bool:
    """That a trained message's words, reasoning and tool calls stand in `text`.

    Returns whether all of them do so as they are, white space included. Raises `Lost`.
    """
    where = f"message {number}"
    exact = True
    for what, words in (("words", message["content"]), ("reasoning", _reasoning(message))):
        if words in text:
            continue
        exact = False
        if not _holds(text, words):
            raise _lost(where, f"its {what}", words)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    for function in calls:
        _check_call(function, where, text)
    if calls and not _one_by_one(message["content"].strip(), calls, text):
        raise Lost(
            f"{where}: the chat template does not write each of its words and calls; {WHAT_TO_DO}"
        )
    return exact


def check_context(messages: Messages, tools: list[dict[str, Any]], text: str) -> None:
    """That all words of `messages`, and the tools, stand in `text`.

    The reasoning of earlier turns need not: many templates leave it out on purpose. Raises `Lost`.
    """
    times: dict[str, int] = {}
    for index, message in enumerate(messages):
        words = message["content"]
        said = words.strip()
        times[said] = times.get(said, 0) + 1
        if words not in text and not _spelled(words, text):
            raise _lost(f"message {index + 1}", "its words", words)
        if said and times[said] > 1 and said in text and text.count(said) < times[said]:
            raise _lost(f"message {index + 1}", "its words once more", words)
        for call in message.get("tool_calls") or ():
            _check_call(call["function"], f"message {index + 1}", text)
    for tool in tools:
        function = tool.get("function", tool)
        for what in ("name", "description"):
            words = function.get(what)
            if isinstance(words, str) and not _spelled(words, text):
                raise _lost("the tools", f"the {what} of a tool", words)


def schemas_are_whole(tools: list[dict[str, Any]], text: str) -> bool:
    """Whether everything that the tools' parameters say stands in `text`.

    Some templates write them in a language of their own and leave parts out, on purpose.
    """
    parameters = [tool.get("function", tool).get("parameters") for tool in tools]
    return all(_spelled(value, text) for value in _of_schema(parameters))


def _of_schema(schema: Any) -> Iterator[Any]:
    """The words of a JSON schema that somebody chose: names, descriptions, values, patterns."""
    if isinstance(schema, list):
        for item in schema:
            yield from _of_schema(item)
    elif isinstance(schema, dict):
        for name, item in schema.items():
            if name in ("description", "title", "pattern", "default", "const", "enum"):
                yield from _leaves(item)
            elif name == "properties" and isinstance(item, dict):
                yield from item
                yield from _of_schema(list(item.values()))
            else:
                yield from _of_schema(item)


def _one_by_one(words: str, calls: list[dict[str, Any]], text: str) -> bool:
    """Whether the words and each call have a place of their own, words first or last."""
    flat = " ".join(text.split())

    def behind(pieces: Iterable[Any], start: int) -> int:
        """Where the last of `pieces` ends if each is looked for from `start` on; -1: one is not."""
        end = start
        for piece in pieces:
            forms = {" ".join(form.split()) for form in _forms(piece)}
            places = [(flat.find(form, start), form) for form in forms]
            found = [(at, form) for at, form in places if at >= 0]
            if not found:
                return -1
            at, form = min(found)
            end = max(end, at + len(form))
        return end

    groups = [[each["name"], *_leaves(each.get("arguments") or {})] for each in calls]
    for order in ([[words], *groups], [*groups, [words]]):
        end = 0
        for pieces in order:
            end = behind(pieces, end) if end >= 0 else end
        if end >= 0:
            return True
    return False


def _check_call(function: dict[str, Any], where: str, text: str) -> None:
    if function["name"] not in text:
        raise _lost(where, "the call of a tool", function["name"])
    for value in _leaves(function.get("arguments") or {}):
        if not _spelled(value, text):
            raise _lost(where, f"an argument of {function['name']}", str(value))


def _leaves(value: Any) -> Iterator[Any]:
    """Every key and every value within an object."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _spelled(value: Any, text: str) -> bool:
    """Whether a value stands in a text, as it is or as JSON."""
    if any(form in text for form in _forms(value)):
        return True
    return isinstance(value, str) and _holds(text, value)


def _forms(value: Any) -> list[str]:
    """How templates write a value: as it is, as JSON, or with its white space made one."""
    if not isinstance(value, str):
        return [json.dumps(value), str(value)]
    forms = [value, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]]
    return [*forms, " ".join(value.split())]


def _reasoning(message: dict[str, Any]) -> str:
    return message.get("reasoning_content") or ""


def _holds(text: str, words: str) -> bool:
    """Whether `text` has `words`, however white space is written."""
    return words.strip() in text or " ".join(words.split()) in " ".join(text.split())


def _lost(where: str, what: str, words: str) -> Lost:
    begins = " ".join(whole(words).split())
    shown = begins if len(begins) <= 40 else begins[:40] + "…"
    return Lost(f"{where}: the chat template does not write {what} ({shown!r}); {WHAT_TO_DO}")
