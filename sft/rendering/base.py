"""What a renderer is, and what it makes of a conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
        """UTF-8 bytes of the trained text within the first `max_length` tokens.

        The first token of a sequence is no target, so it does not count.
        """
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
