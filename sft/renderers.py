"""From a chat to tokens and the tokens that carry loss.

The tokenizer's own chat template says how a conversation is written, so that what training shows
a model is, token for token, what the service will prompt it with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sft.errors import BadInput, nearest

if TYPE_CHECKING:
    import numpy as np

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Rendered:
    """One training sequence."""

    tokens: list[int]
    trained: list[bool]
    """For each token whether it carries loss."""
    num_bytes: np.ndarray = field(compare=False)
    """For each token the UTF-8 bytes of its text, 0 for a special token: int32 [T]."""

    def trained_bytes(self, max_length: int | None = None) -> int:
        """UTF-8 bytes of the trained text within the first `max_length` tokens: that of the
        tokens with loss that are targets, which the first of a sequence is not."""
        import numpy as np

        mask = np.asarray(self.trained[1:max_length], dtype=bool)
        return int(self.num_bytes[1:max_length][mask].sum())


class Renderer(Protocol):
    """Writes conversations as tokens."""

    def render(self, messages: Messages, train_on_what: str) -> list[Rendered]:
        """The sequences of one conversation: as few as possible, none if nothing is trained."""
        ...

    def render_batch(
        self, conversations: list[Messages], train_on_what: str
    ) -> list[list[Rendered]]:
        """`render` of each, faster."""
        ...

    def generation_prompt(self, messages: Messages) -> list[int]:
        """The tokens that an answer to `messages` is sampled after."""
        ...

    def stop_sequences(self) -> list[int] | list[str]:
        """What ends a sampled answer, as the SDK's `SamplingParams.stop`."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the tokens of some conversation could."""
        ...


TEMPLATE = ("template", "chatml", "gemma", "gpt_oss", "kimi_k2", "llama3", "deepseekv3", "qwen3")
"""Names that mean the tokenizer's own template, which is right for any of these models."""

ROLE_COLON = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message.role | capitalize }}: {{ message.content | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:"
    "{% elif messages and messages[-1].role == 'assistant' %}User:{% endif %}"
)
"""An answer ends its turn by giving the floor back: that is what sampling stops at."""
ROLE_COLON_STOP = "\n\nUser:"


def get_renderer(
    name: str | None, tokenizer: Any, chat_template_kwargs: dict[str, Any] | None = None
) -> Renderer:
    """The renderer called `name`; None: the tokenizer's own chat template.

    `role_colon` writes `User: …`, `Assistant: …` for base models, which have no template.
    `qwen3_disable_thinking` is the template with `enable_thinking: false`.

    Raises `BadInput` for another name, and for a tokenizer without a template.
    """
    from sft.template_renderer import TemplateRenderer

    kwargs = dict(chat_template_kwargs or {})
    if name == "role_colon":
        kwargs = {"bos_token": _beginning(tokenizer), **kwargs}
        return TemplateRenderer(tokenizer, ROLE_COLON, kwargs, stop=[ROLE_COLON_STOP])
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
    return TemplateRenderer(tokenizer, None, kwargs)


def _beginning(tokenizer: Any) -> str:
    """The token that the tokenizer itself begins every text with; "" where there is none."""
    first = tokenizer("")["input_ids"][:1]
    return tokenizer.bos_token if first and first == [tokenizer.bos_token_id] else ""
