"""Chat data read from a stream: `dataset=hf_stream`, for data too large to tokenise first."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft.data import columns
from sft.data.builders import Built, build_whole
from sft.data.hub import load
from sft.data.layouts import LAYOUTS
from sft.data.row_stream import RowStream
from sft.data.sources import checked
from sft.errors import BadInput
from sft.keys import key
from sft.rendering.base import Messages
from sft.rendering.conversations import Conversation
from sft.rendering.report import Report
from sft.rendering.token_bytes import special_tokens
from sft.tokens.datums import datums_with_bytes
from sft.types import ChatDatasetBuilder, SupervisedDataset

if TYPE_CHECKING:
    import tinker


@dataclass
class HFStreamBuilder(ChatDatasetBuilder):
    """Anything that `datasets` streams: a dataset of the Hub, a local folder or file."""

    path: str = key("???", "Hub id, or a local folder or file (JSONL, CSV, Parquet)")
    name: str | None = key(None, "configuration of the dataset, where it has several")
    split: str = key("train", "split to train on")
    eval_split: str | None = key(None, "split to evaluate on; null: hold out of `split`")
    eval_size: int = key(
        0, "conversations to hold out, the first different ones of the split", minimum=0
    )
    layout: str = key("auto", "columns of a row", choices=("auto", *LAYOUTS))
    shuffle_buffer: int = key(10_000, "rows in memory to draw the next from", minimum=1)
    steps_per_epoch: int = key(1000, "batches that count as an epoch", minimum=1)

    def __call__(self) -> Built:
        stream = load(self.path, self.name, self.split, streaming=True)
        rows = ChatRows(f"{self.path} ({self.split})", _layout(stream, self.layout, self.path))
        held: list[Messages] = []
        if self.eval_split is not None:
            other = load(self.path, self.name, self.eval_split, streaming=True, key="eval_split")
            name = f"{self.path} ({self.eval_split})"
            other_rows = ChatRows(name, _layout(other, self.layout, self.path))
            held = _different(other, other_rows, self.eval_size or None)
        elif self.eval_size:
            held = _different(stream, rows, self.eval_size)
        train = ChatStream(stream, rows, {digest(messages) for messages in held}, self)
        return train, self._evaluation(held) if held else None

    def _evaluation(self, held: list[Messages]) -> Any:
        return build_whole(self, Listed(f"{self.path}, held out", held))


@dataclass(frozen=True)
class ChatRows:
    """Rows of a stream as messages."""

    name: str
    layout: str

    def messages(self, row: dict[str, Any]) -> Messages:
        """The messages of a row. Raises `BadInput` that shows how an unsound row begins."""
        try:
            return checked(row, self.layout, self.name)
        except BadInput as error:
            raise BadInput(f"{error} (in the row {str(row)[:100]} …)") from None


@dataclass(frozen=True)
class Listed:
    """Conversations in memory, as a `sft.tokens.cache.Source`."""

    name: str
    listed: list[Messages]

    def key(self) -> str:
        return hashlib.sha256(b"".join(map(digest, self.listed))).hexdigest()

    def where(self, number: int) -> str:
        return f"{self.name} row {number}"

    def conversations(self) -> Iterator[tuple[int, Conversation | BadInput]]:
        return enumerate(map(Conversation, self.listed), start=1)

    def report(self) -> Report:
        return Report()


class ChatStream(SupervisedDataset):
    """A stream of conversations without those that are held out.

    It knows the bytes of the batch that it gave last, and of no other.
    """

    def __init__(self, stream: Any, rows: ChatRows, held_out: set[bytes], builder: HFStreamBuilder):
        common, renderer = builder.common_config, builder.renderer
        self.special_tokens = special_tokens(builder.tokenizer)

        def convert(row: dict[str, Any]) -> list[tuple[tinker.Datum, int]]:
            messages = rows.messages(row)
            if digest(messages) in held_out:
                return []
            return datums_with_bytes(
                messages, renderer, common.max_length, common.train_on_what, common.reduction
            )

        self._stream = RowStream(
            stream, common.batch_size, builder.steps_per_epoch, builder.shuffle_buffer, convert
        )
        self._bytes: tuple[int | None, int] = (None, 0)

    def __len__(self) -> int:
        return self._stream.length

    def set_epoch(self, seed: int = 0) -> None:
        self._stream.begin(seed)

    def get_batch(self, index: int) -> list[tinker.Datum]:
        batch = self._stream.batch(index)
        self._bytes = (index, sum(num_bytes for _, num_bytes in batch))
        return [datum for datum, _ in batch]

    def num_bytes(self, index: int) -> int:
        """UTF-8 bytes of the trained text of batch `index`, the last one that was given.

        Raises `IndexError` for another batch.
        """
        last, num_bytes = self._bytes
        if index != last:
            raise IndexError(f"batch {index}: only of batch {last}, the last one, it is known")
        return num_bytes


def digest(messages: Messages) -> bytes:
    """Equal for conversations that are the same, 16 bytes."""
    return hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).digest()


def _layout(stream: Any, layout: str, path: str) -> str:
    """The layout of a stream's first row. Raises `BadInput` if it has none, or if
    its columns do not fit `layout`."""
    first = next(iter(stream), None)
    if first is None:
        raise BadInput(f"dataset.path: {path} holds no row")
    if layout == "auto":
        return columns.detect(first, path)
    columns.require(first, layout, path)
    return layout


def _different(stream: Any, rows: ChatRows, size: int | None) -> list[Messages]:
    """The first `size` different conversations of a stream; None: all of them.

    Raises `BadInput` if there are not as many.
    """
    found: dict[bytes, Messages] = {}
    for row in stream:
        messages = rows.messages(row)
        found.setdefault(digest(messages), messages)
        if len(found) == size:
            break
    if size is not None and len(found) < size:
        raise BadInput(
            f"dataset.eval_size: {size} is more than the {len(found)} different conversations of "
            f"{rows.name}"
        )
    return list(itertools.islice(found.values(), size))
