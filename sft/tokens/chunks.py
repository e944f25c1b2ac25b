"""Tokenising one chunk of conversations: a file of JSON lines in, an Arrow file out.

Both lie in a scratch folder. A line is `[place, conversation, notes]`; a row of the Arrow file is
a sequence. What is left out or written otherwise is told by a report beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput
from sft.rendering.base import Rendered, Renderer
from sft.rendering.conversations import Conversation, Messages
from sft.rendering.report import Report
from sft.types import ChatDatasetBuilder, ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    import pyarrow

CANNOT_BE_WRITTEN = "the chat template cannot write them"
NO_ANSWER = "no message to train on"
"""Kinds of rows that are left out."""

ALL_TRAINED = "all tokens are trained"
BUT_THE_FIRST = "all tokens but the first are trained"
"""What is said of raw text. Nothing stands before a first token, so it is no target; there it is
the tokenizer's token for the beginning of a text, or if there is none, the text's own."""

CHUNK = 1024
"""Conversations a chunk, and a record batch of the result: what is in memory at once."""


@dataclass(frozen=True)
class Recipe:
    """How conversations are tokenised, as plain values."""

    model_name_for_tokenizer: str
    renderer_name: str | None
    chat_template_kwargs: dict[str, Any]
    max_length: int | None
    train_on_what: str
    on_lost: str
    control_tokens: str
    date: str | None
    source: str = ""
    """What is tokenised, for messages."""

    @classmethod
    def of(cls, builder: ChatDatasetBuilder) -> Recipe:
        common = builder.common_config
        return cls(
            model_name_for_tokenizer=common.model_name_for_tokenizer,
            renderer_name=common.renderer_name,
            chat_template_kwargs=common.chat_template_kwargs,
            max_length=common.max_length,
            train_on_what=common.train_on_what,
            on_lost=builder.on_lost,
            control_tokens=builder.control_tokens,
            date=common.date,
        )

    def renderer(self) -> Renderer:
        """That of a builder with these settings."""
        common = ChatDatasetBuilderCommonConfig(
            self.model_name_for_tokenizer,
            self.renderer_name,
            chat_template_kwargs=self.chat_template_kwargs,
            date=self.date,
        )
        builder = ChatDatasetBuilder(
            common_config=common, on_lost=self.on_lost, control_tokens=self.control_tokens
        )
        return builder.renderer


def schema() -> pyarrow.Schema:
    """The columns of a table of sequences. An empty row stands for one that was dropped."""
    import pyarrow as pa

    return pa.schema(
        [
            ("tokens", pa.list_(pa.int32())),
            ("trained", pa.list_(pa.bool_())),
            ("trained_tokens", pa.int32()),
            ("trained_bytes", pa.int32()),
            ("truncated", pa.bool_()),
            ("conversations", pa.int32()),  # begun with this row: 0 for a further part of one
        ]
    )


def chunk_file(folder: Path, index: int, suffix: str) -> Path:
    return folder / f"{index:06d}.{suffix}"


def tokenise_chunk(folder: Path, index: int, recipe: Recipe, renderer: Renderer) -> None:
    """Write the Arrow file of chunk `index` and delete its JSON lines. Raises `BadInput`."""
    import pyarrow as pa

    source = chunk_file(folder, index, "jsonl")
    lines = [json.loads(line) for line in source.open(encoding="utf-8")]
    # Plain messages stay what they are, for a renderer of somebody's own.
    conversations = [
        Conversation.from_plain(plain) if isinstance(plain, dict) else plain
        for _, plain, _ in lines
    ]
    report = Report()
    rendered = []
    found = _render(conversations, recipe.train_on_what, renderer)
    for (place, _, notes), sequences in zip(lines, found, strict=True):
        rendered.append(_kept(sequences, place, recipe.on_lost, report))
        for note in {*notes, *(note for sequence in rendered[-1] for note in sequence.notes)}:
            report.note(note)
    if any(map(_begins_with_text, conversations, rendered)):
        report.note(BUT_THE_FIRST)
    batch = _to_arrow(rendered, recipe.max_length)
    target = chunk_file(folder, index, "arrow")
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    chunk_file(folder, index, "json").write_text(json.dumps(report.to_json()), encoding="utf-8")
    source.unlink()


def _render(
    conversations: list[Conversation | Messages], train_on_what: str, renderer: Renderer
) -> list[list[Rendered] | BadInput]:
    try:
        return renderer.render_batch(conversations, train_on_what)
    except BadInput:
        raise
    except Exception:  # of a renderer of somebody's own: which conversation was it?
        found: list[list[Rendered] | BadInput] = []
        for conversation in conversations:
            try:
                found.append(renderer.render(conversation, train_on_what))
            except Exception as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                found.append(BadInput(f"cannot be rendered: {reason}"))
        return found


def read_report(folder: Path, index: int) -> Report:
    """What `tokenise_chunk` left out or changed; its file is deleted."""
    path = chunk_file(folder, index, "json")
    report = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
    path.unlink()
    return report


def _kept(
    sequences: list[Rendered] | BadInput, where: str, on_lost: str, report: Report
) -> list[Rendered]:
    """The sequences of a row; none if it is left out. Raises `BadInput` if it is refused."""
    if isinstance(sequences, BadInput):
        if on_lost != "leave_out":
            raise BadInput(f"{where}: {sequences}")
        report.leave_out(CANNOT_BE_WRITTEN, f"{where}: {sequences}")
        return []
    if not sequences:
        report.leave_out(NO_ANSWER, where)
    return sequences


def _begins_with_text(conversation: Conversation | Messages, sequences: list[Rendered]) -> bool:
    """Whether it is raw text whose first token is one of its words."""
    if not isinstance(conversation, Conversation) or conversation.text is None:
        return False
    return any(sequence.num_bytes[:1].any() for sequence in sequences)


def _to_arrow(rendered: Iterable[list[Rendered]], max_length: int | None) -> pyarrow.RecordBatch:
    import numpy as np
    import pyarrow as pa

    tokens, masks, offsets = [], [], [0]
    facts: list[tuple[int, int, bool, int]] = []

    def add(sequence_tokens: Any, mask: Any, *row: Any) -> None:
        tokens.append(np.asarray(sequence_tokens, dtype=np.int32))
        masks.append(mask)
        offsets.append(offsets[-1] + len(mask))
        facts.append(row)

    nothing = np.zeros(0, dtype=bool)
    for sequences in rendered:
        first = 1
        for sequence in sequences:
            mask = np.asarray(sequence.trained[:max_length], dtype=bool)
            if trained := int(np.count_nonzero(mask[1:])):
                size = sequence.trained_bytes(max_length)
                cut = len(mask) < len(sequence.tokens)
                add(sequence.tokens[:max_length], mask, trained, size, cut, first)
            else:
                add((), nothing, 0, 0, True, first)
            first = 0
        if first:
            add((), nothing, 0, 0, False, first)
    bounds = pa.array(np.array(offsets, dtype=np.int32))
    columns = [
        pa.ListArray.from_arrays(bounds, pa.array(np.concatenate(tokens))),
        pa.ListArray.from_arrays(bounds, pa.array(np.concatenate(masks))),
        *(pa.array(column) for column in zip(*facts, strict=True)),
    ]
    types = schema()
    arrays = [column.cast(item.type) for column, item in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=types)
