"""Chat data read from a stream: `dataset=hf_stream`, for data too large to tokenise first."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft.data.builders import Built, HubData, build_whole
from sft.data.hub import load, of_files
from sft.data.reading import Numbered, Reading, nothing_in
from sft.data.row_stream import RowStream
from sft.data.sources import ChatFiles
from sft.errors import BadInput
from sft.keys import key
from sft.rendering.conversations import Conversation
from sft.rendering.report import Report
from sft.rendering.token_bytes import special_tokens
from sft.tokens.chunks import CANNOT_BE_WRITTEN
from sft.tokens.datums import datums_with_bytes
from sft.tokens.digests import as_text, digest
from sft.tokens.table import TokenisedDataset
from sft.types import SupervisedDataset

if TYPE_CHECKING:
    import tinker


@dataclass
class HFStreamBuilder(HubData):
    """A stream of a dataset of the Hub, of a local folder or of a file."""

    split: str = key("train", "split to train on; of a stream no part")
    eval_size: int = key(
        0, "conversations to hold out, the first different ones of the split", minimum=0
    )
    shuffle_buffer: int = key(10_000, "rows in memory to draw the next from", minimum=1)
    steps_per_epoch: int = key(1000, "batches that count as an epoch", minimum=1)

    def __call__(self) -> Built:
        rows = self.source()
        held: list[Conversation] = []
        if self.eval_split is not None:
            other = self._rows(self.eval_split, "eval_split")
            held = self._first(other)
        elif self.eval_size:
            held = self._first(rows)
        train = ChatStream(rows, {_digest(found) for found in held}, self)
        return train, self._evaluation(held) if held else None

    def _first(self, rows: ChatRows) -> list[Conversation]:
        """Those to hold out. Raises `BadInput` if there are not as many."""
        held = _different(rows, self.eval_size or None)
        if len(held) < self.eval_size:
            raise BadInput(
                f"dataset.eval_size: {self.eval_size} is more than the {len(held)} different "
                f"conversations of {rows.name}"
            )
        return held

    def source(self) -> ChatRows:
        return self._rows(self.split, "split")

    def measured(self, cap: int | None) -> TokenisedDataset:
        """The first `cap` different conversations of the split as held-out data; None: all."""
        return self._evaluation(_different(self.source(), cap))

    def _rows(self, split: str, key: str) -> ChatRows:
        return ChatRows.open(self.path, self.name, split, self.layout, key)

    def _evaluation(self, held: list[Conversation]) -> TokenisedDataset:
        return build_whole(self, Listed(f"{self.path}, held out", held))


@dataclass
class ChatRows:
    """The rows of a stream as conversations."""

    name: str
    stream: Any
    """A `datasets.IterableDataset` of rows; of local files, of what `ChatFiles` makes of them."""
    reading: Reading
    files: ChatFiles | None = None
    layout: str = ""
    """That of the first row."""

    @classmethod
    def open(cls, path: str, name: str | None, split: str, layout: str, key: str) -> ChatRows:
        """The stream of a split. Raises `BadInput` if it is empty or its layout does not fit."""
        called = f"{path} ({split})"
        files = of_files(path, name, split, layout, key, streaming=True)
        if files is None:
            stream = load(path, name, split, streaming=True, key=key)
            rows = cls(called, stream, Reading(layout, filled=True))
        else:
            rows = cls(called, _stream(files), Reading(layout), files)
        first = next(iter(rows.stream), None)
        if first is None:
            raise BadInput(f"dataset.path: {path} holds no row")
        if files is None:
            rows.reading.wanted(list(first), path)
        else:
            rows.conversation(first)
        rows.layout = rows.reading_of(first).layout
        return rows

    def conversation(self, row: dict[str, Any]) -> Conversation:
        """That of a row. Raises `BadInput` with its line or, if there is none, its beginning."""
        if self.files is not None:
            if isinstance(row[FOUND], BadInput):
                raise row[FOUND]
            return row[FOUND]
        try:
            return self.reading.conversation(row, self.name)
        except BadInput as error:
            raise BadInput(f"{error}{_beginning(row)}") from None

    def said_of(self, row: dict[str, Any], problem: object) -> str:
        """`problem` with the line of the row or, if there is none, its beginning."""
        if self.files is not None:
            return f"{self.where(row[NUMBER])}: {problem}"
        # Of a shuffled stream nobody knows the number of a row.
        return f"{self.name}: {problem}{_beginning(row)}"

    def reading_of(self, row: dict[str, Any]) -> Reading:
        """What has read the row: it knows the columns that it did not read."""
        return self.reading if self.files is None else row[READING]

    def where(self, number: int) -> str:
        return self.files.where(number) if self.files else f"{self.name} row {number}"

    def line(self, number: int) -> int:
        return self.files.line(number) if self.files else number

    def rows(self) -> Iterator[Numbered]:
        """Each row of the stream with its number, in its own order."""
        if self.files is not None:
            yield from self.files.rows()
            return
        for number, row in enumerate(self.stream, start=1):
            try:
                yield number, self.conversation(row)
            except BadInput as error:
                yield number, error


NUMBER, FOUND, READING = "number", "found", "reading"
"""Columns of the stream of local files."""


def _beginning(row: dict[str, Any]) -> str:
    return f" (in the row {str(row)[:100]} …)"


def _stream(files: ChatFiles) -> Any:
    """Local files as a stream that `datasets` can shuffle."""
    import datasets

    return datasets.IterableDataset.from_generator(_found, gen_kwargs={"files": files})


def _found(files: ChatFiles) -> Iterator[dict[str, Any]]:
    for reader in files.readers():
        for number, found in reader.every():
            yield {NUMBER: number, FOUND: found, READING: reader.reading}


@dataclass(frozen=True)
class Listed:
    """Conversations in memory, as a `sft.tokens.cache.Source`."""

    name: str
    listed: list[Conversation]

    def key(self) -> str:
        digests = (_digest(found).to_bytes(8, "little") for found in self.listed)
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def where(self, number: int) -> str:
        return f"{self.name} row {number}"

    def conversations(self) -> Iterator[tuple[int, Conversation]]:
        return enumerate(self.listed, start=1)

    def report(self) -> Report:
        return Report()


NO_TOKEN = "no token to train on"
HELD_OUT = "held out"
"""Kinds of rows that are left out."""


class ChatStream(SupervisedDataset):
    """A stream of conversations without those that are held out.

    It knows the bytes of the batch that it gave last, and of no other. Its `report` counts the rows
    as they are read: the whole of it is known at the end, and a row that is read again, in another
    epoch or behind a resumed checkpoint, counts again.
    """

    def __init__(self, rows: ChatRows, held_out: set[int], builder: HFStreamBuilder):
        common, renderer = builder.common_config, builder.renderer
        self.special_tokens = special_tokens(builder.tokenizer)
        self.layout = rows.layout
        self.held_out = held_out
        """Digests of the conversations that are passed over."""
        self.report = Report(found="read as a stream")

        def convert(row: dict[str, Any]) -> list[tuple[tinker.Datum, int]]:
            found = rows.conversation(row)
            reading = rows.reading_of(row)
            self.report.add(Report(unused=list(reading.unused), fields=list(reading.fields)))
            if nothing := nothing_in(found):
                return leave_out(row, nothing, f"holds {nothing}")
            if _digest(found) in self.held_out:
                return leave_out(row, HELD_OUT, "is held out")
            try:
                datums = datums_with_bytes(
                    found, renderer, common.max_length, common.train_on_what, common.reduction
                )
            except BadInput as error:
                if builder.on_lost == "leave_out":
                    return leave_out(row, CANNOT_BE_WRITTEN, error)
                raise BadInput(rows.said_of(row, error)) from None
            for note in found.notes:
                self.report.note(note)
            if not datums:
                limits = f"train_on_what={common.train_on_what}, max_length={common.max_length}"
                return leave_out(row, NO_TOKEN, f"no token is trained with {limits}")
            return datums

        def leave_out(row: dict[str, Any], kind: str, why: object) -> list[Any]:
            self.report.leave_out(kind, rows.said_of(row, why))
            return []

        self._stream = RowStream(
            rows.stream,
            common.batch_size,
            builder.steps_per_epoch,
            builder.shuffle_buffer,
            convert,
            rows.name,
        )
        self._bytes: tuple[int | None, int] = (None, 0)

    def leave_out(self, digests: Iterable[int]) -> None:
        """Pass over the conversations of these digests, too."""
        self.held_out |= {int(digest) for digest in digests}

    def first_rows(self, count: int) -> None:
        """Read no more than the first `count` rows of the stream, before the first epoch."""
        self._stream.hf_dataset = self._stream.hf_dataset.take(count)

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


def _digest(conversation: Conversation) -> int:
    """Equal for conversations that are the same; 0 for one that is no text, as training will
    say."""
    try:
        return digest(as_text(conversation))
    except UnicodeEncodeError:
        return 0


def _different(rows: ChatRows, size: int | None) -> list[Conversation]:
    """The first `size` different conversations of a stream; None: all of them."""
    found: dict[int, Conversation] = {}
    for row in rows.stream:
        conversation = rows.conversation(row)
        if nothing_in(conversation):
            continue
        found.setdefault(_digest(conversation), conversation)
        if len(found) == size:
            break
    return list(itertools.islice(found.values(), size))
