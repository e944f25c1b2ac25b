"""`sft.preview --json`: what becomes of each row of the data, one JSON object a line.

    {"line": 3, "left_out": null, "sequences": [{"tokens": 57, "parts": [
        {"trained": false, "text": "…"}, {"trained": true, "text": "…"}]}]}

The texts of a sequence's parts, joined, are the whole sequence with its control tokens. A row that
is left out or refused says why, and has no sequences.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sft.data.builders import ChatRowsBuilder
from sft.data.reading import nothing_in
from sft.errors import BadInput
from sft.rendering.base import Rendered
from sft.rendering.conversations import Conversation
from sft.tokens.cache import HALF_A_PAIR, NO_CONVERSATION
from sft.tokens.chunks import NO_ANSWER
from sft.tokens.digests import as_text
from sft.types import ChatDatasetBuilder

AT_ONCE = 64


@dataclass
class ExampleRows:
    """The rows of a builder's source, in their order, as they would be trained on.

    Raises `BadInput` if the builder does not read rows of chats, or there is no row.
    """

    builder: ChatDatasetBuilder
    refused: bool = False
    """Whether a run would refuse one of the rows that were given so far."""
    trained: bool = False
    """Whether a run would train on one of them."""

    def __post_init__(self) -> None:
        if not isinstance(self.builder, ChatRowsBuilder):
            raise BadInput(
                f"--json: {type(self.builder).__name__} names no rows of chats; without --json "
                "the sequences of any data are shown"
            )
        self.source: Any = self.builder.source()

        self.renderer = self.builder.renderer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = ((number, self._as_text(number, found)) for number, found in self.source.rows())
        empty = True
        while block := list(itertools.islice(rows, AT_ONCE)):
            empty = False
            yield from self._shown(block)
        if empty:
            raise BadInput(f"{self.source.name}: {NO_CONVERSATION}")

    def _as_text(self, number: int, found: Conversation | BadInput) -> Conversation | BadInput:
        """A row, or that it is no text: half of a surrogate pair can stand in JSON."""
        try:
            if isinstance(found, Conversation):
                as_text(found)
        except UnicodeEncodeError:
            return BadInput(f"{self.source.where(number)}: {HALF_A_PAIR}")
        return found

    def _shown(self, block: list[tuple[int, Conversation | BadInput]]) -> Iterator[dict[str, Any]]:
        common = self.builder.common_config
        sound = [found for _, found in block if isinstance(found, Conversation)]
        rendered = iter(self.renderer.render_batch(sound, common.train_on_what))
        for number, found in block:
            line = self.source.line(number) if hasattr(self.source, "line") else number
            made: list[Rendered] | BadInput = []
            if isinstance(found, BadInput):
                left = str(found)
                self.refused |= getattr(self.builder, "on_bad_line", "refuse") != "skip"
            else:
                made = next(rendered)
                left = self._left_out(found, made, number)
            sequences = [] if left or isinstance(made, BadInput) else self._sequences(made)
            if not sequences and not left:
                left = f"no trained token is left within max_length={common.max_length}"
            self.trained |= bool(sequences)
            yield {"line": line, "left_out": left or None, "sequences": sequences}

    def _left_out(
        self, conversation: Conversation, made: list[Rendered] | BadInput, number: int
    ) -> str:
        """Why a row that can be read is not trained on; "" if it is."""
        if nothing := nothing_in(conversation):
            return f"{self.source.where(number)}: holds {nothing}"
        if isinstance(made, BadInput):
            self.refused |= self.builder.on_lost != "leave_out"
            return f"{self.source.where(number)}: {made}"
        if not made:
            return f"{self.source.where(number)}: {NO_ANSWER}"
        return ""

    def _sequences(self, made: list[Rendered]) -> list[dict[str, Any]]:
        shown = []
        for sequence in made:
            length = self.builder.common_config.max_length
            tokens = sequence.tokens[:length]
            # The first token is no target: nothing stands before it.
            trained = [False, *sequence.trained[1:length]]
            if any(trained):
                parts = list(text_parts(self.builder.tokenizer, tokens, trained))
                shown.append({"tokens": len(tokens), "parts": parts})
        return shown


def text_parts(tokenizer: Any, tokens: list[int], trained: list[bool]) -> Iterator[dict[str, Any]]:
    """The runs of trained and other tokens as text; joined, they are the text of the whole.

    A character whose bytes are of two runs is shown in the later one.
    """
    whole = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    start, end = 0, 0
    for yes, run in itertools.groupby(trained):
        end += len(list(run))
        text = tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False)
        if not whole.startswith(text):  # it ends within a character
            text = os.path.commonprefix([text, whole])
        shown = len(text)
        yield {"trained": yes, "text": whole[start:shown]}
        start = shown
