"""Conversations: what a sound one is, and which of its messages carry loss."""

from __future__ import annotations

from typing import Any

from sft.errors import BadInput, nearest

ROLES = ("system", "user", "assistant", "tool")
TRAIN_ON_WHAT = (
    "last_assistant_message",
    "last_assistant_turn",
    "all_assistant_messages",
    "all_messages",
    "all_tokens",
    "all_user_and_system_messages",
    "customized",
)


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
    takes each message's own `trainable`. Raises `BadInput` if a message has none, and for a
    `train_on_what` that is not in `TRAIN_ON_WHAT`.
    """
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
        return [role in ("user", "system") for role in roles]
    if train_on_what == "customized":
        if missing := [i + 1 for i, m in enumerate(messages) if "trainable" not in m]:
            raise BadInput(
                f"message {missing[0]} has no 'trainable': train_on_what=customized needs "
                "true or false in every message"
            )
        return [bool(message["trainable"]) for message in messages]
    raise BadInput(
        f"train_on_what: '{train_on_what}' is not one of {', '.join(TRAIN_ON_WHAT)}"
        f"{nearest(train_on_what, list(TRAIN_ON_WHAT))}"
    )
