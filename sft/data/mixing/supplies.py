"""A part's sequences one after another, whatever kind of dataset holds them.

A supply gives the sequence of any number of the present epoch, counted from 0. Which one that is
does not depend on what was asked before. A part that has no more begins again, in another order.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from sft.data.mixing.order import seed_of
from sft.data.streaming import ChatStream
from sft.errors import BadInput
from sft.tokens.table import TokenisedDataset
from sft.types import DataStatistics, SupervisedDataset

if TYPE_CHECKING:
    import numpy as np
    import tinker

Drawn = tuple["tinker.Datum", int]
"""A sequence, and the UTF-8 bytes of its trained text (0 if they are not known)."""


class Supply(Protocol):
    """The sequences of a part."""

    @property
    def dataset(self) -> SupervisedDataset:
        """The part's data, without what is left out."""
        ...

    @property
    def size(self) -> int:
        """Sequences until it begins again."""
        ...

    def begin(self, seed: int) -> None:
        """Begin an epoch in the order that `seed` gives."""
        ...

    def draw(self, number: int) -> Drawn:
        """The sequence `number` of this epoch."""
        ...

    def leave_out(self, digests: np.ndarray) -> None:
        """Give none of the conversations of these digests, from now on."""
        ...

    def used(self, count: int) -> str:
        """What `count` sequences of an epoch mean for the part, in words."""
        ...


class FromTable:
    """Of data that is tokenised already, with batches of one sequence: any is at hand."""

    def __init__(self, dataset: TokenisedDataset, cap: int | None):
        self.whole = dataset
        self.cap = cap
        self._choose()

    def _choose(self) -> None:
        self.dataset = self.whole if self.cap is None else self.whole.at_most(self.cap)
        self.size = len(self.dataset)

    def begin(self, seed: int) -> None:
        self.seed = seed
        self.turn = -1

    def draw(self, number: int) -> Drawn:
        turn, index = divmod(number, self.size)
        if turn != self.turn:
            self.dataset.set_epoch(seed_of(self.seed, turn))
            self.turn = turn
        return self.dataset.get_batch(index)[0], self.dataset.num_bytes(index)

    def leave_out(self, digests: np.ndarray) -> None:
        self.whole.leave_out(digests)
        self._choose()

    def used(self, count: int) -> str:
        return in_words(count, self.size)


class FromStream:
    """Of a stream, with batches of one sequence: forward, or once more from the beginning.

    It does not end; `size` is what counts as an epoch of it alone.
    """

    def __init__(self, dataset: ChatStream, size: int):
        self.dataset = dataset
        self.size = size

    def begin(self, seed: int) -> None:
        self.seed = seed
        self.next = sys.maxsize

    def draw(self, number: int) -> Drawn:
        if number < self.next:
            self.dataset.set_epoch(self.seed)
        self.next = number + 1
        [datum] = self.dataset.get_batch(number)
        return datum, self.dataset.num_bytes(number)

    def leave_out(self, digests: np.ndarray) -> None:
        self.dataset.leave_out(digests)

    def used(self, count: int) -> str:
        return f"{count:,} sequences of its stream an epoch"


class FromBatches:
    """Of a dataset of the user's own, batch after batch: forward, or from the beginning.

    Its batches may be of any size. `cap` ends it after so many sequences.
    """

    def __init__(self, dataset: SupervisedDataset, cap: int | None):
        self.dataset = dataset
        self.cap = cap
        counted: DataStatistics | None = getattr(dataset, "statistics", None)
        size = counted.datums if counted else len(dataset) * len(dataset.get_batch(0))
        self.size = size if cap is None else min(size, cap)

    def begin(self, seed: int) -> None:
        self.seed = seed
        self.next = sys.maxsize

    def draw(self, number: int) -> Drawn:
        if number < self.next:
            self.next = 0
            self._drawn = self._draw()
        for _ in range(number - self.next):
            next(self._drawn)
        self.next = number + 1
        return next(self._drawn), 0

    def _draw(self) -> Iterator[tinker.Datum]:
        turn = 0
        while True:
            self.dataset.set_epoch(seed_of(self.seed, turn))
            batches = map(self.dataset.get_batch, range(len(self.dataset)))
            given = False
            for datum in itertools.islice(itertools.chain.from_iterable(batches), self.cap):
                given = True
                yield datum
            if not given:
                raise BadInput("its batches hold no sequence to train on")
            turn += 1

    def leave_out(self, digests: np.ndarray) -> None:
        """Nobody knows which conversations these are of."""

    def used(self, count: int) -> str:
        return in_words(count, self.size)


def in_words(count: int, size: int) -> str:
    """How much of `size` sequences `count` draws use.

    >>> in_words(250, 100)
    'its 100 sequences are trained 2.5 times an epoch'
    >>> in_words(300, 900)
    '300 of its 900 sequences (33.3%) are trained an epoch, drawn anew for each'
    """
    if count < size:
        used = f"{count:,} of its {size:,} sequences ({100 * count / size:.3g}%)"
        return f"{used} are trained an epoch, drawn anew for each"
    times = "once" if count == size else f"{count / size:.3g} times"
    return f"its {size:,} sequences are trained {times} an epoch"
