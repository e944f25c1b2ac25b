"""Datasets of the `datasets` library as batches: in memory or on disk, and streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sft.data.row_stream import Row, RowStream
from sft.errors import BadInput
from sft.tokens.table import permutation
from sft.types import SupervisedDataset

if TYPE_CHECKING:
    import datasets
    import tinker


def _one_of(
    map_fn: Callable[[Row], tinker.Datum] | None,
    flatmap_fn: Callable[[Row], list[tinker.Datum]] | None,
) -> Callable[[Row], list[tinker.Datum]]:
    """Either function as one from a row to a list. Raises `ValueError`."""
    if map_fn is not None and flatmap_fn is None:
        return lambda row: [map_fn(row)]
    if flatmap_fn is not None and map_fn is None:
        return flatmap_fn
    raise ValueError("give either map_fn (a row to a datum) or flatmap_fn (a row to a list)")


class SupervisedDatasetFromHFDataset(SupervisedDataset):
    """A `datasets.Dataset`, converted row by row as batches are asked for.

    The harness asks for them before their step, in a thread. A batch is what `batch_size` rows
    give: with `flatmap_fn` it may hold more datums, or fewer. The last batch may be short.

    Args:
        hf_dataset: rows as `datasets` gives them.
        batch_size: rows a batch.
        map_fn: one row to one datum.
        flatmap_fn: one row to a list of datums.

    Raises `ValueError` unless exactly one of the functions is given, and `BadInput` if the dataset
    has fewer than `batch_size` rows.
    """

    def __init__(
        self,
        hf_dataset: datasets.Dataset,
        batch_size: int,
        map_fn: Callable[[Row], tinker.Datum] | None = None,
        flatmap_fn: Callable[[Row], list[tinker.Datum]] | None = None,
    ):
        self.hf_dataset = hf_dataset
        self.batch_size = batch_size
        self._convert = _one_of(map_fn, flatmap_fn)
        self._order: Any = range(len(hf_dataset))
        if batch_size > len(hf_dataset):
            raise BadInput(
                f"batch_size: {batch_size} is more than the {len(hf_dataset)} rows of the dataset"
            )

    def __len__(self) -> int:
        return -(-len(self.hf_dataset) // self.batch_size)

    def set_epoch(self, seed: int = 0) -> None:
        self._order = permutation(len(self.hf_dataset), seed)

    def get_batch(self, index: int) -> list[tinker.Datum]:
        """Raises `BadInput` if the batch's rows give no datum."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = self.hf_dataset.__getitems__([int(row) for row in chosen])
        if data := [datum for row in rows for datum in self._convert(row)]:
            return data
        raise BadInput(f"the {len(rows)} rows of batch {index} give no sequence to train on")


class StreamingSupervisedDatasetFromHFDataset(SupervisedDataset):
    """A `datasets.IterableDataset`, read forward as batches are asked for.

    A buffer of `buffer_size` rows is in memory; the next row is drawn from it at random. A stream
    that ends within an epoch begins again, in another order.

    A resumed run reads what it has trained on a second time, and skips it. That is quick with
    `map_fn`, which is not called for a row that is skipped. `flatmap_fn` is called for every row.

    Args:
        hf_dataset: rows as `datasets` streams them.
        batch_size: datums a batch; none is short.
        length: batches that make an epoch, since a stream does not say how many rows it has.
            Every epoch starts the stream anew.
        map_fn: one row to one datum.
        flatmap_fn: one row to a list of datums, which may be empty.
        buffer_size: rows of the shuffle buffer.

    Raises `ValueError` unless exactly one of the functions is given.
    """

    def __init__(
        self,
        hf_dataset: datasets.IterableDataset,
        batch_size: int,
        length: int,
        map_fn: Callable[[Row], tinker.Datum] | None = None,
        flatmap_fn: Callable[[Row], list[tinker.Datum]] | None = None,
        buffer_size: int = 10_000,
    ):
        self._map_fn = map_fn
        convert = _one_of(map_fn, flatmap_fn)
        # With map_fn the rows themselves, which are converted only once their batch is asked for.
        self._stream: RowStream[Any] = RowStream(
            hf_dataset, batch_size, length, buffer_size, (lambda row: [row]) if map_fn else convert
        )

    def __len__(self) -> int:
        return self._stream.length

    def set_epoch(self, seed: int = 0) -> None:
        self._stream.begin(seed)

    def get_batch(self, index: int) -> list[tinker.Datum]:
        """The datums of batch `index`.

        Raises `IndexError` if it lies before the last one asked for, or beyond the epoch, and
        `BadInput` if the stream holds no row that gives a datum.
        """
        items = self._stream.batch(index)
        return [self._map_fn(row) for row in items] if self._map_fn else items
