"""Rows of a stream in batches, drawn from a buffer, forward only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sft.errors import BadInput

if TYPE_CHECKING:
    import datasets

Row = dict[str, Any]
Item = TypeVar("Item")


class RowStream(Generic[Item]):
    """The items that the rows of a `datasets.IterableDataset` give, in batches of equal size.

    Args:
        hf_dataset: rows as `datasets` streams them.
        batch_size: items a batch; none is short.
        length: batches that make an epoch. Every epoch starts the stream anew.
        buffer_size: rows in memory, of which the next one is drawn at random.
        items: what one row gives; it may be nothing.
        name: what messages call it.
    """

    def __init__(
        self,
        hf_dataset: datasets.IterableDataset,
        batch_size: int,
        length: int,
        buffer_size: int,
        items: Callable[[Row], Iterable[Item]],
        name: str = "the stream",
    ):
        self.hf_dataset = hf_dataset
        self.batch_size = batch_size
        self.length = length
        self.buffer_size = buffer_size
        self.items = items
        self.name = name
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Begin an epoch in the order that `seed` gives."""
        self._next = 0
        self._drawn = self._draw(seed)

    def batch(self, index: int) -> list[Item]:
        """The items of batch `index`.

        Raises `IndexError` if it lies before the last one asked for, or beyond the epoch, and
        `BadInput` if the stream holds no row that gives an item.
        """
        if not self._next <= index < self.length:
            raise IndexError(
                f"batch {index} of a stream of {self.length} that is at {self._next}: "
                "it goes forward only, from set_epoch on"
            )
        for _ in range((index - self._next) * self.batch_size):
            next(self._drawn)
        self._next = index + 1
        return [next(self._drawn) for _ in range(self.batch_size)]

    def _draw(self, seed: int) -> Iterator[Item]:
        """One item after another, without end."""
        again = 0
        while True:
            # Seeds of one epoch's passes lie far from those of the next epochs' first ones.
            shuffled = self.hf_dataset.shuffle(
                seed=seed + again * 7_368_787, buffer_size=self.buffer_size
            )
            found = False
            for row in shuffled:
                for item in self.items(row):
                    found = True
                    yield item
            if not found:
                raise BadInput(f"{self.name} holds no row that gives a sequence to train on")
            again += 1
