"""Tokenising one chunk of conversations: a file of JSON lines in, an Arrow file out.

Both lie in a scratch folder. A line is `[number, messages]`; a row of the Arrow file is a sequence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft import renderers
from sft.errors import BadInput
from sft.models import tokenizers
from sft.rendering.base import Messages, Rendered, Renderer

if TYPE_CHECKING:
    import pyarrow

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
    where: str = "{}"
    """The place of a conversation, for error messages, around its number."""

    def renderer(self) -> Renderer:
        tokenizer = tokenizers.load_tokenizer(self.model_name_for_tokenizer)
        return renderers.get_renderer(self.renderer_name, tokenizer, self.chat_template_kwargs)


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
    numbers, conversations = zip(*map(json.loads, source.open(encoding="utf-8")), strict=True)
    rendered = _render(list(conversations), numbers, recipe, renderer)
    batch = _to_arrow(rendered, recipe.max_length)
    target = chunk_file(folder, index, "arrow")
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    source.unlink()


def _render(
    conversations: list[Messages], numbers: Iterable[int], recipe: Recipe, renderer: Renderer
) -> list[list[Rendered]]:
    try:
        return renderer.render_batch(conversations, recipe.train_on_what)
    except Exception as whole:
        # One of them cannot be rendered: a template may refuse what is sound as a conversation.
        for number, conversation in zip(numbers, conversations, strict=True):
            try:
                renderer.render(conversation, recipe.train_on_what)
            except Exception as error:
                where = recipe.where.format(number)
                raise BadInput(f"{where}: cannot be rendered: {_first_line(error)}") from whole
        raise


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


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
                add((), nothing, 0, 0, False, first)
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
