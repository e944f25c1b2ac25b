"""That every word of the data stands in what is trained, or in its context.

A chat template may leave words out without a sound: the text beside a tool call, tools, reasoning,
a system prompt. What a row has and its sequence has not is named here.

A piece that is missing may seem to be there: a reasoning "4" is found within the answer "It is 4.",
a word "a" within the template's own `name`. So pieces are looked for one behind another, each in a
place of its own; and where that, or the template's own words, leaves a doubt, the template writes
the conversation once more with a mark behind every piece (`sft.rendering.missing.marks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sft.errors import BadInput
from sft.rendering.control_tokens import whole
from sft.rendering.conversations import Messages
from sft.rendering.missing.pieces import call_groups, in_order, is_spelled, of_schema, orders

WHITE_SPACE = "the chat template changes the white space around the words"
SCHEMAS = "the chat template leaves out parts of the tools' parameters"
NAMES = "the chat template leaves out the names of those who speak"
UNSURE = "words that stand several times: whether the chat template writes each cannot be told"
WITHOUT = "trained without {}, which the chat template does not write"
WHAT_TO_DO = (
    "take another model.renderer or model.chat_template_kwargs, change the row, or set "
    "dataset.on_lost=leave_out or train"
)


class Lost(BadInput):
    """Words that the chat template does not write; `what` of the row they are."""

    def __init__(self, where: str, what: str, words: object):
        begins = " ".join(whole(str(words)).split())
        shown = begins if len(begins) <= 40 else begins[:40] + "…"
        super().__init__(
            f"{where}: the chat template does not write {what} ({shown!r}); {WHAT_TO_DO}"
        )
        self.what = what

    @property
    def kind(self) -> str:
        """What rows are counted under that are trained all the same."""
        if self.what in ("its words", "its reasoning"):
            return self.what.removeprefix("its ")
        return "tools" if self.what.endswith("of a tool") and "call" not in self.what else "calls"


def losses(
    message: dict[str, Any], number: int, text: str, *, thoughts: bool = False
) -> Iterator[Lost]:
    """What of message `number` cannot be found in `text` at all; with `thoughts` its reasoning."""
    where = f"message {number}"
    if not is_spelled(words := message["content"], text):
        yield Lost(where, "its words", words)
    reasoning = message.get("reasoning_content") if thoughts else None
    if reasoning and not is_spelled(reasoning, text):
        yield Lost(where, "its reasoning", reasoning)
    for name, *arguments in call_groups(message):
        if name not in text:
            yield Lost(where, "the call of a tool", name)
        for value in arguments:
            if not is_spelled(value, text):
                yield Lost(where, f"an argument of {name}", value)


def losses_of_tools(tools: list[dict[str, Any]], text: str) -> Iterator[Lost]:
    """The same of the names and descriptions of tools."""
    for tool in tools:
        function = tool.get("function", tool)
        for what in ("name", "description"):
            words = function.get(what)
            if isinstance(words, str) and not is_spelled(words, text):
                yield Lost("the tools", f"the {what} of a tool", words)


def schemas_are_whole(tools: list[dict[str, Any]], text: str) -> bool:
    """Whether everything that the tools' parameters say stands in `text`.

    Some templates write them in a language of their own and leave parts out, on purpose.
    """
    parameters = [tool.get("function", tool).get("parameters") for tool in tools]
    return all(is_spelled(value, text) for value in of_schema(parameters))


def names_are_written(messages: Messages, text: str) -> bool:
    """Whether the `name` that a message has beside its role stands in `text`; a tool's is known
    from its call."""
    named = (message for message in messages if message["role"] != "tool")
    return all(is_spelled(message["name"], text) for message in named if message.get("name"))


def stand_apart(messages: Messages, text: str, *, thoughts: bool = False) -> bool:
    """Whether each piece of `messages` has a place of its own in `text`, in their order."""
    return in_order([orders(message, thoughts) for message in messages], text)


def are_plain(messages: Messages, text: str, frame: str) -> bool:
    """Whether `messages` are words alone that stand in `text` one behind another, as they are.

    And none of them in what the template writes anyway: so that nothing is left to look for.
    """
    end = 0
    for message in messages:
        words = message["content"].strip()
        if len(message) > 2 or (words and words in frame) or (at := text.find(words, end)) < 0:
            return False
        end = at + len(words)
    return True


def are_frequent(messages: Messages, frame: str) -> bool:
    """Whether a piece of `messages` stands in what the template writes anyway."""
    for message in messages:
        if message["content"].strip() in frame and message["content"].strip():
            return True
        if (thought := message.get("reasoning_content")) and thought.strip() in frame:
            return True
        if any(_is_within(piece, frame) for group in call_groups(message) for piece in group):
            return True
    return False


def tools_are_frequent(tools: list[dict[str, Any]], messages: Messages, frame: str) -> bool:
    """Whether only words that may stand elsewhere, too, say that a tool is written."""
    said = "\0".join(message["content"] for message in messages)
    for tool in tools:
        words = tool.get("function", tool).get("description")
        if not isinstance(words, str) or not words.strip():
            return True
        if words.strip() in frame or words.strip() in said:
            return True
    return False


def _is_within(piece: Any, frame: str) -> bool:
    # True, false and null cannot be marked.
    return piece is not None and not isinstance(piece, bool) and str(piece).strip() in frame
