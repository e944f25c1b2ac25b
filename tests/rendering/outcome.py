"""What becomes of a row of data with a renderer: right, refused or wrong."""

from __future__ import annotations

from typing import Any

from sft.errors import BadInput
from tests.rendering import rows
from tests.rendering.oracle import Oracle
from tests.rendering.words import normal


def conversation(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Any:
    """What the renderer takes."""
    from sft.rendering import conversations

    made = getattr(conversations, "Conversation", None)
    return made(messages=messages, tools=tools) if made else messages


def outcome(
    oracle: Oracle, renderer: Any, row: dict[str, Any], what: str = "all_assistant_messages"
) -> tuple[str, list[str]]:
    """right, refused or wrong; and why, or how it deviates."""
    messages, tools = rows.read(row)
    try:
        sequences = renderer.render(conversation(messages, tools), what)
    except BadInput as refusal:
        if oracle.could_be_trained(messages, tools, _stops(renderer), what):
            return "wrong", [f"refused without need: {refusal}"]
        return "refused", [str(refusal)]
    except Exception as error:
        return "wrong", [f"{type(error).__name__}: {error}"]
    verdict = oracle.check(messages, tools, sequences, renderer.stop_sequences(), what)
    faults = verdict.faults or wrong_prompts(oracle, renderer, messages, tools)
    return ("wrong", faults) if faults else ("right", sorted(verdict.deviations))


def _stops(renderer: Any) -> list[int] | list[str]:
    try:
        return renderer.stop_sequences()
    except BadInput:
        return []


def wrong_prompts(oracle: Oracle, renderer: Any, messages: list, tools: list) -> list[str]:
    """`generation_prompt` is what sampling gets: it must be the template's."""
    for j, message in enumerate(messages):
        if j and message["role"] == "assistant":
            theirs = oracle.prompts(messages[:j], tools)
            try:
                ours = oracle.decode(renderer.generation_prompt(conversation(messages[:j], tools)))
            except BadInput as refusal:
                if theirs:
                    return [f"the prompt of message {j + 1} is refused: {refusal}"]
                continue
            if theirs and ours not in theirs and normal(ours) not in theirs:
                return [f"the prompt of message {j + 1} is not the template's: {ours[-80:]!r}"]
    return []
