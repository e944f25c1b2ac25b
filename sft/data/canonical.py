"""The one way from the messages that a layout finds to a `Conversation`.

Whatever form of a chat message is in use ends here as one form: OpenAI's, with ShareGPT's names of
speakers, null content, parts, old function calls and arguments as JSON text read as what they mean.
What only a chat template could read stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sft.data import parts, tool_calls, weights
from sft.data.json_text import UnusableJSON, as_json, from_text, not_text, plain, type_name
from sft.data.other_data import MEDIA, refuse_media
from sft.errors import BadInput, nearest
from sft.rendering.conversations import ROLES, Conversation

SPEAKERS = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""Other names of roles, most of them from ShareGPT files."""

CALLS = ("function_call", "tool_call", "tool_calls")
"""Roles whose text is a call of a tool, or a list of them, as JSON."""

SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
TEMPLATE = "chat_template_kwargs"
BESIDE = frozenset({*SYSTEM, *TOOLS, TEMPLATE})
"""Columns that are read beside the messages of any layout."""

REASONING = ("reasoning_content", "reasoning", "thinking")
FIELDS = frozenset(
    {"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name"}
    | {"weight", "trainable"}
)
"""Of a canonical message; others are kept for the chat template."""
READ = FIELDS | {"function_call", "refusal", *REASONING}
"""Of a message as a file has it; what else it has is only named."""

_PLAIN = {"role", "content"}


def conversation(
    messages: Any, beside: Mapping[str, Any], where: str, *, filled: bool = False
) -> Conversation:
    """The conversation of a row's `messages` and of the columns `beside` them.

    `filled` says that the row is of a table whose columns have a type: nulls in it stand for what
    is not there. Raises `BadInput` that begins with `where` and names the message.
    """
    if not isinstance(messages, list):
        raise BadInput(f"{where}: expected a list of messages, not {type(messages).__name__}")
    notes: set[str] = set()
    made = [
        _message(message, f"{where}: message {number}", filled, notes)
        for number, message in enumerate(messages, start=1)
    ]
    within = _tools_within(made, where, filled)
    if within or not BESIDE.isdisjoint(beside):
        made = _with_system(made, beside, where)
        tools = _tools(beside, where, filled)
        for place, found in within.items():
            tools = tools or found
            if found != tools:
                raise BadInput(
                    f"{place}: has 'tools' that are not those of the row; put all of them in the "
                    "column 'tools'"
                )
        template = _template(beside, where, filled)
        return Conversation(made, tools, template, notes=tuple(sorted(notes)))
    return Conversation(made, notes=tuple(sorted(notes)))


def _message(message: Any, where: str, filled: bool, notes: set[str]) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadInput(f"{where}: expected {{role, content}}, not {type(message).__name__}")
    if message.keys() == _PLAIN and message["role"] in ROLES and type(message["content"]) is str:
        return message  # what nearly every message is
    message = {k: v for k, v in message.items() if v is not None or k == "content"}
    if "from" in message and "role" not in message:
        message["role"] = message.pop("from")
    if "value" in message:
        _value_as_content(message, where)
    if message.keys() == _PLAIN and type(message["content"]) is str:
        if message["role"] not in CALLS:  # nothing else to look at, as in ShareGPT files
            message["role"] = _role(message["role"], where)
            return message
    if "role" not in message:
        raise BadInput(f"{where}: has no 'role'; it has {_names(message)}")
    if message["role"] in CALLS:
        message = _spoken_call(message, where)
    if not MEDIA.keys().isdisjoint(message):
        refuse_media(message, where)
    if filled:
        message = _without_types(message, where)
    role = _role(message["role"], where)
    called = tool_calls.calls(message, where, filled, notes)
    if called and role != "assistant":
        raise BadInput(f"{where}: has a tool call; only the role 'assistant' can call a tool")
    thought = _reasoning(message, where)
    content = message.get("content")
    if content is None:
        says = called or thought or message.get("refusal")
        content = _without_content(message, role, bool(says), where)
    text, inside = parts.text_of(content, where, notes)
    if (thought or inside) and role != "assistant":
        raise BadInput(
            f"{where}: has reasoning; only that of the role 'assistant' is read: put it in the "
            "answer that it leads to, or leave it out"
        )
    if inside and thought and inside != thought:
        raise BadInput(f"{where}: has reasoning both in its content and beside it; keep one")
    # In the order of the file: some templates write a message as the JSON that it is.
    made = {**message, "role": role, "content": text}
    for key in ("function_call", "tool_calls", *REASONING, *weights.by_another_name(message)):
        made.pop(key, None)
    if thought or inside:
        made["reasoning_content"] = thought or inside
    if called:
        made["tool_calls"] = called
    if (weight := weights.weight(message, where)) is not None:
        made["weight"] = weight
    if refusal := made.pop("refusal", None):
        if not isinstance(refusal, str):
            raise BadInput(f"{where}: 'refusal' is {type_name(refusal)}; expected text")
        if text and refusal != text:
            raise BadInput(
                f"{where}: has a content and a 'refusal' that differ; keep the one to train on"
            )
        made["content"] = refusal
    return made


def _value_as_content(message: dict[str, Any], where: str) -> None:
    """Take ShareGPT's `value` for the content. Raises `BadInput` beside another content."""
    content, value = message.get("content"), message["value"]
    if content is not None and not isinstance(value, str):
        return  # a number that somebody has measured, say
    if content and content != value:
        raise BadInput(
            f"{where}: has 'value' and 'content', which differ; keep the one to train on"
        )
    message["content"] = message.pop("value")


def _without_types(message: dict[str, Any], where: str) -> dict[str, Any]:
    """A table's message with dates, decimals and bytes as JSON has them.

    A field that nobody reads is null if JSON cannot hold it. Raises `BadInput` for one that is.
    """
    made: dict[str, Any] = {}
    for key, value in message.items():
        if key == "content" and not isinstance(value, bytes):
            made[key] = value  # what is no text is refused
        elif key in READ:
            made[key] = plain(value, f"'{key}'", where)
        else:
            try:
                made[key] = as_json(value)
            except UnusableJSON:
                made[key] = None
    return made


def _names(message: dict[str, Any]) -> str:
    return ", ".join(map(str, message)) or "nothing"


def known_role(name: Any) -> str | None:
    """The one of `ROLES` that a file calls `name`; None if it is no name of one."""
    if not isinstance(name, str):
        return None
    small = name.strip().lower()  # "Assistant", "USER"
    return small if small in ROLES else SPEAKERS.get(small)


def _role(role: Any, where: str) -> str:
    if (known := known_role(role)) is not None:
        return known
    raise BadInput(
        f"{where}: the role {role!r} is not one of {', '.join(ROLES)}"
        f"{nearest(str(role), list(ROLES), cutoff=0.75)}"
    )


def _spoken_call(message: dict[str, Any], where: str) -> dict[str, Any]:
    """A turn whose text is a call (LLaMA-Factory's function_call) as the assistant's message."""
    role = message["role"]
    calls = from_text(message.get("content"), f"the text of '{role}'", where)
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list) or not calls:
        raise BadInput(
            f"{where}: the text of '{role}' is {type_name(calls)}; expected JSON: "
            '{"name": …, "arguments": {…}}, or a list of them'
        )
    return {**message, "role": "assistant", "content": "", "tool_calls": calls}


def _without_content(message: dict[str, Any], role: str, says: bool, where: str) -> str:
    """The text of a message whose content is null or missing, as it may be beside a tool call.

    Raises `BadInput` if the message says nothing in another field.
    """
    if says or (role == "tool" and "content" in message):
        return ""
    if "content" in message:
        raise BadInput(f"{where}: the content is null; expected text")
    raise BadInput(f"{where}: has no 'content'; it has {_names(message)}")


def _reasoning(message: dict[str, Any], where: str) -> str:
    found: dict[str, str] = {}
    for key in REASONING:
        value = message.get(key)
        if isinstance(value, list):
            value = "".join(parts.text_of(value, f"{where}: '{key}'", set()))
        if value is not None and not isinstance(value, str):
            raise BadInput(f"{where}: '{key}' is {type_name(value)}; expected text")
        if value:
            found[key] = value
    if len(set(found.values())) > 1:
        raise BadInput(
            f"{where}: has {' and '.join(map(repr, found))}, which differ; keep the one to train on"
        )
    return next(iter(found.values()), "")


def _with_system(
    messages: list[dict[str, Any]], beside: Mapping[str, Any], where: str
) -> list[dict[str, Any]]:
    """With the system text of a column put first. Raises `BadInput` if there is another."""
    for column in SYSTEM:
        text = beside.get(column)
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            raise BadInput(not_text(text, column, where))
        if not messages:  # an empty conversation stays one
            return messages
        if messages[0]["role"] not in ("system", "developer"):
            messages = [{"role": "system", "content": text}, *messages]
        elif messages[0]["content"] != text:
            raise BadInput(
                f"{where}: the messages begin with a system text and '{column}' holds another; "
                "leave one of them out"
            )
    return messages


def _tools(beside: Mapping[str, Any], where: str, filled: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for column in TOOLS:
        for tool in tool_calls.tools(beside.get(column), column, where, filled):
            if tool not in found:
                found.append(tool)
    return found


def _tools_within(
    messages: list[dict[str, Any]], where: str, filled: bool
) -> dict[str, list[dict[str, Any]]]:
    """The tools that system messages hold, taken out of them, by the place of the message."""
    within: dict[str, list[dict[str, Any]]] = {}
    for number, message in enumerate(messages, start=1):
        if len(message) > 2 and message["role"] in ("system", "developer"):
            place = f"{where}: message {number}"
            found = _tools({key: message.pop(key, None) for key in TOOLS}, place, filled)
            if found:
                within[place] = found
    return within


def _template(beside: Mapping[str, Any], where: str, filled: bool) -> dict[str, Any]:
    value = beside.get(TEMPLATE)
    if value is None or value == "":
        return {}
    found = plain(from_text(value, f"'{TEMPLATE}'", where, python=True), f"'{TEMPLATE}'", where)
    if not isinstance(found, dict):
        raise BadInput(
            f"{where}: '{TEMPLATE}' is {type_name(found)}; expected an object, such as "
            '{"enable_thinking": false}'
        )
    return {key: item for key, item in found.items() if not (filled and item is None)}
