"""From tokens and weights to `tinker.Datum`: right shift, truncation, reduction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sft.errors import BadInput, not_one_of
from sft.rendering.base import Renderer
from sft.rendering.conversations import Conversation, Messages, check_conversation

if TYPE_CHECKING:
    import tinker

REDUCTIONS = ("mean", "none")


def datum(tokens: Any, weights: Any, reduction: str = "mean") -> tinker.Datum:
    """The sequence `tokens` [T] as a datum of length T - 1: token i predicts token i + 1.

    Args:
        tokens: whole numbers [T], T >= 2.
        weights: per token [T], how much it counts as a target; the first one's is not used.
        reduction: `mean` scales the weights to a sum of 1, `none` leaves them.

    Raises `BadInput` for another reduction, and `ValueError` if the shapes do not fit.
    """
    import numpy as np
    import tinker

    if reduction not in REDUCTIONS:
        raise not_one_of("reduction", reduction, REDUCTIONS)
    tokens = np.asarray(tokens, dtype=np.int64)
    weights = np.asarray(weights, dtype=np.float32)
    if tokens.shape != weights.shape or tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(
            f"expected two or more tokens and a weight for each, found {tokens.shape} tokens and "
            f"{weights.shape} weights"
        )
    targets = weights[1:]
    if reduction == "mean" and (total := float(targets.sum(dtype=np.float64))) > 0:
        targets = (targets / total).astype(np.float32)
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1].tolist()),
        loss_fn_inputs={"target_tokens": tokens[1:].copy(), "weights": targets.copy()},
    )


def datum_from_model_input_weights(
    model_input: tinker.ModelInput,
    weights: Any,
    max_length: int | None = None,
    reduction: str = "mean",
) -> tinker.Datum:
    """A datum from a whole sequence and a weight per token.

    Args:
        model_input: the whole sequence, T tokens of text.
        weights: [T], list, array or tensor: the weight of each token as a target.
        max_length: the sequence is cut to its first `max_length` tokens; None: not at all.
        reduction: see `datum`; applied after cutting.

    Returns:
        A datum of length min(T, max_length) - 1.
    """
    tokens = model_input.to_ints()
    return datum(tokens[:max_length], weights[: len(tokens)][:max_length], reduction)


def conversation_to_datums(
    conversation: Conversation | Messages,
    renderer: Renderer,
    max_length: int | None = None,
    train_on_what: str = "all_assistant_messages",
    reduction: str = "mean",
) -> list[tinker.Datum]:
    """The datums of one conversation, possibly none.

    There are as many as its chat template needs: each trained turn follows exactly the prompt that
    it would be sampled from. A datum without a trained token within `max_length` is left out.

    Raises `BadInput` if the conversation is not sound.
    """
    return [found for found, _ in datums_with_bytes(
        conversation, renderer, max_length, train_on_what, reduction
    )]  # fmt: skip


def conversation_to_datum(
    conversation: Conversation | Messages,
    renderer: Renderer,
    max_length: int | None = None,
    train_on_what: str = "all_assistant_messages",
    reduction: str = "mean",
) -> tinker.Datum:
    """The datum of a conversation that takes exactly one (see `conversation_to_datums`).

    Raises `BadInput` if the conversation is not sound, or takes no datum or several.
    """
    datums = conversation_to_datums(conversation, renderer, max_length, train_on_what, reduction)
    if len(datums) != 1:
        raise BadInput(
            f"the conversation takes {len(datums)} datums with this template and max_length; "
            "use conversation_to_datums with flatmap_fn, or train on its last message alone"
        )
    return datums[0]


def datums_with_bytes(
    conversation: Conversation | Messages,
    renderer: Renderer,
    max_length: int | None,
    train_on_what: str,
    reduction: str,
) -> list[tuple[tinker.Datum, int]]:
    """Each datum of a conversation with the UTF-8 bytes of its trained text. Raises `BadInput`."""
    import numpy as np

    whole = Conversation.of(conversation)
    if whole.text is None:
        check_conversation(whole.messages, "conversation")
    found = []
    for rendered in renderer.render(conversation, train_on_what):
        trained = np.asarray(rendered.trained[:max_length], dtype=bool)
        if trained[1:].any():
            cut = datum(rendered.tokens[:max_length], trained, reduction)
            found.append((cut, rendered.trained_bytes(max_length)))
    return found
