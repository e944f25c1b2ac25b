"""Conversations: what a row of data becomes, and which of its messages carry loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sft.errors import BadInput, nearest, not_one_of

Messages = list[dict[str, Any]]
ROLES = ("system", "developer", "user", "assistant", "tool")
TRAIN_ON_WHAT = (
    "last_assistant_message",
    "last_assistant_turn",
    "all_assistant_messages",
    "all_messages",
    "all_tokens",
    "all_user_and_system_messages",
    "customized",
)


@dataclass(frozen=True)
class Conversation:
    """What a row of data becomes, between those who read files and those who write tokens.

    A message has a `role` of `ROLES` and a `content` that is text, perhaps "". An assistant's may
    have `reasoning_content`, text of its own, and `tool_calls`, a list of `{"type": "function",
    "function": {"name": text, "arguments": {…}}}`. `weight` (0 or 1) and `trainable` say whether
    it may carry loss. Whatever else it has is for the chat template.
    """

    messages: Messages
    tools: list[dict[str, Any]] = field(default_factory=list)
    """The functions that may be called, as JSON schema in OpenAI's form."""
    template: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template that are this row's own."""
    text: str | None = None
    """Raw text in place of messages: all of it is trained."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the reader changed: one phrase for each kind."""

    @classmethod
    def of(cls, conversation: Conversation | Messages) -> Conversation:
        """Itself, or the one of plain messages."""
        return conversation if isinstance(conversation, cls) else cls(conversation)  # type: ignore[arg-type]

    def plain(self) -> Any:
        """As JSON: the messages alone if there is nothing else; what is the same is equal."""
        rest = {"tools": self.tools, "template": self.template, "text": self.text}
        beside = {name: value for name, value in rest.items() if value}
        return {"messages": self.messages, **beside} if beside else self.messages

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Conversation:
        """`plain` read backwards, of a conversation that is more than its messages."""
        return cls(**plain)


def check_conversation(messages: Any, where: str) -> None:
    """Refuse what is not a conversation. Raises `BadInput` that begins with `where`, its place."""
    if not isinstance(messages, list):
        raise BadInput(f"{where}: expected a list of messages, not {type(messages).__name__}")
    if not messages:
        raise BadInput(f"{where}: the conversation is empty; expected at least one message")
    for number, message in enumerate(messages, start=1):
        _check_message(message, f"{where}: message {number}")


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise BadInput(f"{where}: expected {{role, content}}, not {type(message).__name__}")
    for key in ("role", "content"):
        if key not in message:
            raise BadInput(f"{where}: has no '{key}'; it has {', '.join(map(str, message))}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise BadInput(
            f"{where}: the role {role!r} is not one of {', '.join(ROLES)}"
            f"{nearest(str(role), list(ROLES))}"
        )
    if not isinstance(content, str):
        raise BadInput(f"{where}: the content is {type(content).__name__}; expected text")


def carries_loss(messages: list[dict[str, Any]], train_on_what: str) -> list[bool]:
    """For each message whether it is trained on.

    `last_assistant_turn` is every assistant message behind the last user message. `customized`
    takes each message's own `trainable`. A message of weight 0 is never trained, unless all tokens
    are. Raises `BadInput` if a message has no `trainable` that needs one, and for a
    `train_on_what` that is not in `TRAIN_ON_WHAT`.
    """
    heavy = [message.get("weight") != 0 for message in messages]
    if not all(heavy) and train_on_what != "all_tokens":
        chosen = carries_loss([{**m, "weight": 1} for m in messages], train_on_what)
        return [yes and weighs for yes, weighs in zip(chosen, heavy, strict=True)]
    roles = [message["role"] for message in messages]
    assistant = [role == "assistant" for role in roles]
    if train_on_what == "all_assistant_messages":
        return assistant
    if train_on_what == "last_assistant_message":
        last = max((i for i, yes in enumerate(assistant) if yes), default=-1)
        return [i == last for i in range(len(messages))]
    if train_on_what == "last_assistant_turn":
        user = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
        return [yes and i > user for i, yes in enumerate(assistant)]
    if train_on_what in ("all_messages", "all_tokens"):
        return [True] * len(messages)
    if train_on_what == "all_user_and_system_messages":
        return [role in ("user", "system", "developer") for role in roles]
    if train_on_what == "customized":
        if missing := [i + 1 for i, m in enumerate(messages) if "trainable" not in m]:
            raise BadInput(
                f"message {missing[0]} has no 'trainable': train_on_what=customized needs "
                "true or false in every message"
            )
        return [bool(message["trainable"]) for message in messages]
    raise not_one_of("train_on_what", train_on_what, TRAIN_ON_WHAT)
