"""From a chat to tokens and the tokens that carry loss.

The tokenizer's own chat template says how a conversation is written. So training shows a model,
token for token, what the service will prompt it with.
"""

from __future__ import annotations

from typing import Any

from sft.errors import BadInput, nearest
from sft.rendering.base import Messages, Rendered, Renderer
from sft.rendering.templates import TemplateRenderer, beginning

__all__ = ["Messages", "Rendered", "Renderer", "get_renderer"]

TEMPLATE = ("template", "chatml", "gemma", "gpt_oss", "kimi_k2", "llama3", "deepseekv3", "qwen3")
"""Names that mean the tokenizer's own template, which is right for any of these models."""

ROLE_COLON = (
    "{{ beginning }}{% for message in messages %}"
    "{{ message.role | capitalize }}: {{ message.content | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:"
    "{% elif messages and messages[-1].role == 'assistant' %}User:{% endif %}"
)
"""An answer ends its turn with the next speaker's name: that is what sampling stops at."""


def get_renderer(
    name: str | None,
    tokenizer: Any,
    chat_template_kwargs: dict[str, Any] | None = None,
    *,
    control_tokens: str = "as_text",
    lost_words: bool = False,
    date: str | None = None,
) -> Renderer:
    """The renderer called `name`; None: the tokenizer's own chat template.

    `role_colon` writes `User: …`, `Assistant: …` for base models, which have no template.
    `qwen3_disable_thinking` is the template with `enable_thinking: false`.

    `control_tokens` says what becomes of those that stand in a message: `as_text`, `refuse`,
    `as_tokens`. With `lost_words`, rows whose words the template leaves out are trained as it
    writes them, instead of refused. `date` (`2026-11-30`) is today's for a template that writes it.

    Raises `BadInput` for another name, or if the tokenizer has no template.
    """
    kwargs = dict(chat_template_kwargs or {})
    settings: Any = {"control_tokens": control_tokens, "lost_words": lost_words, "date": date}
    if name == "role_colon":
        kwargs = {"beginning": beginning(tokenizer), **kwargs}
        return TemplateRenderer(tokenizer, ROLE_COLON, kwargs, **settings)
    if name == "qwen3_disable_thinking":
        name, kwargs = None, {"enable_thinking": False, **kwargs}
    if name is not None and name not in TEMPLATE:
        known = ["role_colon", "qwen3_disable_thinking", *TEMPLATE]
        raise BadInput(
            f"model.renderer: '{name}' is not one of {', '.join(known)}{nearest(name, known)}; "
            "null takes the tokenizer's own chat template"
        )
    if not tokenizer.chat_template:
        raise BadInput(
            f"model.renderer: the tokenizer of {tokenizer.name_or_path} has no chat template; "
            "for a base model set model.renderer=role_colon"
        )
    return TemplateRenderer(tokenizer, None, kwargs, **settings)
