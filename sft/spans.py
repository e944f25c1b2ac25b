"""Training on messages that are not answers: their words are found in the rendered conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft.errors import BadInput
from sft.renderers import Messages, Rendered

if TYPE_CHECKING:
    from sft.template_renderer import TemplateRenderer


def render_spans(
    renderer: TemplateRenderer, messages: Messages, trained: list[bool], train_on_what: str
) -> Rendered:
    """The whole conversation as one sequence.

    A trained message's own words carry loss, with the marker that ends its turn; its header does
    not. With `all_tokens` everything does. Raises `BadInput` where the template does not show a
    trained message's words.
    """
    (text,) = renderer.texts([messages])
    if train_on_what == "all_tokens":
        (tokens,) = renderer.encode([text])
        return Rendered(tokens, [True] * len(tokens), len(text.encode()))
    spans: list[tuple[int, int]] = []
    num_bytes, cursor = 0, 0
    for number, (message, yes) in enumerate(zip(messages, trained, strict=True), start=1):
        words = message["content"].strip()
        start = text.find(words, cursor)
        if start < 0 and "</think>" in words:  # a template may drop earlier thinking
            words = words.rpartition("</think>")[2].strip()
            start = text.find(words, cursor)
        if start < 0:
            if not yes:
                continue
            raise BadInput(
                f"message {number} cannot carry loss: the chat template does not show its words"
            )
        cursor = start + len(words)
        if yes:
            marker = next((m for m in renderer.markers if text.startswith(m, cursor)), "")
            spans.append((start, cursor + len(marker)))
            num_bytes += len(words.encode())
    encoding = renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    flags = [
        any(first < end and last > start for start, end in spans)
        for first, last in encoding["offset_mapping"]
    ]
    return Rendered(encoding["input_ids"], flags, num_bytes)
