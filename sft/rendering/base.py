"""What a renderer is, and what it makes of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sft.errors import BadInput
from sft.rendering.conversations import Conversation, Messages

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rendered:
    """One training sequence."""

    tokens: list[int]
    trained: list[bool]
    """For each token whether it carries loss."""
    num_bytes: np.ndarray = field(compare=False)
    """For each token the UTF-8 bytes of its text, 0 for a special token: int32 [T]."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the template writes otherwise than the data has it: one phrase for each kind."""

    def trained_bytes(self, max_length: int | None = None) -> int:
        """UTF-8 bytes of the trained text within the first `max_length` tokens.

        The first token of a sequence is no target, so it does not count.
        """
        import numpy as np

        mask = np.asarray(self.trained[1:max_length], dtype=bool)
        return int(self.num_bytes[1:max_length][mask].sum())


class Renderer(Protocol):
    """Writes conversations as tokens."""

    def render(self, conversation: Conversation | Messages, train_on_what: str) -> list[Rendered]:
        """The sequences of one conversation: as few as possible, none if nothing is trained.

        Raises `BadInput` if it cannot be written as it is to be trained.
        """
        ...

    def render_batch(
        self, conversations: Sequence[Conversation | Messages], train_on_what: str
    ) -> list[list[Rendered] | BadInput]:
        """`render` of each, or what it raises: all of them faster than one by one.

        Raises `BadInput` if no conversation at all can be rendered.
        """
        ...

    def generation_prompt(self, conversation: Conversation | Messages) -> list[int]:
        """The tokens that an answer to `conversation` is sampled after."""
        ...

    def stop_sequences(self) -> list[int] | list[str]:
        """What ends a sampled answer, as the SDK's `SamplingParams.stop`."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the tokens of some conversation could."""
        ...
