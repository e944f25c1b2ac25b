"""One side of a chat: a run's weights, the history so far, and the answer as it comes.

The Tinker API has no streaming: a request is answered as a whole. So an answer is asked for in
pieces, each sampled behind the history and the pieces before it. The first is short, so that there
are words to read at once; later ones are longer, for each piece has the prompt computed again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput
from sft.evaluators import answer_text, without_end
from sft.run.failures import ServiceLost, words_of

if TYPE_CHECKING:
    import tinker

    from sft.renderers import Renderer

PIECES = (4, 8, 16, 32)
"""Tokens of the first pieces of an answer, and of each that follows the last of them."""


@dataclass
class Speaker:
    """Answers as the model of one run, or as its base model."""

    name: str
    client: tinker.SamplingClient
    tokenizer: Any
    renderer: Renderer
    system: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    history: list[dict[str, str]] = field(default_factory=list)

    def reset(self) -> None:
        """Begin a new conversation."""
        self.history = []

    async def answer(self, words: str) -> AsyncGenerator[str, None]:
        """The answer to a user's `words`: again and again the whole text so far, longer each time.

        What was said is put into the history, also if it was stopped before its end. Raises
        `BadInput` if the template or the service refuses the conversation.
        """
        asked = [*self.history, {"role": "user", "content": words}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        prompt = self.renderer.generation_prompt([*system, *asked])
        stop = self.renderer.stop_sequences()
        tokens: list[int] = []
        said = ""
        try:
            while await self._sample(prompt, tokens, stop):
                said = settled(without_end(tokens, self.tokenizer, stop), stop).lstrip()
                yield said
            said = answer_text(tokens, self.tokenizer, stop)
            yield said
        finally:
            if said:
                self.history = [*asked, {"role": "assistant", "content": said}]

    async def _sample(
        self, prompt: list[int], tokens: list[int], stop: list[int] | list[str]
    ) -> bool:
        """Add the next piece to `tokens`; whether there is more to come."""
        import tinker

        piece = min(_next_piece(len(tokens)), self.max_tokens - len(tokens))
        try:
            response = await self.client.sample(
                prompt=tinker.ModelInput.from_ints(prompt + tokens),
                num_samples=1,
                sampling_params=tinker.SamplingParams(
                    max_tokens=piece,
                    temperature=self.temperature,
                    # Of its own for each piece, or all would be sampled with the same numbers.
                    seed=self.seed + len(prompt) + len(tokens),
                    stop=stop,
                ),
            )
        except (tinker.TinkerError, ServiceLost, ValueError, AssertionError) as error:
            raise BadInput(f"{self.name}: the service cannot answer: {words_of(error)}") from error
        (sequence,) = response.sequences
        tokens += sequence.tokens
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        # A text that ends an answer may begin in one piece and end in the next.
        is_over = any(isinstance(end, str) and end in text for end in stop)
        is_cut = len(sequence.tokens) < piece  # the model's context is full
        return not (
            sequence.stop_reason == "stop" or is_over or is_cut or len(tokens) >= self.max_tokens
        )


def _next_piece(so_far: int) -> int:
    """Tokens of the piece that follows `so_far` tokens.

    >>> [_next_piece(so_far) for so_far in (0, 4, 12, 28, 60, 92)]
    [4, 8, 16, 32, 32, 32]
    """
    for piece in PIECES:
        if so_far <= 0:
            return piece
        so_far -= piece
    return PIECES[-1]


def settled(text: str, stop: list[int] | list[str]) -> str:
    """The part of an unfinished answer that no later token changes: without a character of which
    bytes are missing, and without what may be the beginning of its end.

    >>> settled("A fee. Us", ["User:"])
    'A fee. '
    """
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    held = 0
    for end in stop:
        if isinstance(end, str):
            lengths = [n for n in range(1, len(end)) if text.endswith(end[:n])]
            held = max([held, *lengths])
    return text[: len(text) - held]
