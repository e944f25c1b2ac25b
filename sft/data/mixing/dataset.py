"""The dataset of a mixture: each sequence of a batch is the next one of its part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sft.data.mixing import together
from sft.data.mixing.order import counts, order, seed_of
from sft.data.mixing.supplies import Drawn, FromBatches, Supply
from sft.data.streaming import ChatStream
from sft.errors import BadInput
from sft.rendering.report import Report
from sft.types import DataStatistics, SupervisedDataset

if TYPE_CHECKING:
    import numpy as np
    import tinker


class MixedDataset(SupervisedDataset):
    """Batches of sequences of several parts. The last batch may be short.

    Batch i of an epoch is the same whatever was asked before. A part that is a stream goes forward
    only: to go back is to read it from the beginning.

    Args:
        supplies: the parts' sequences, by name.
        weights: above 0, by name; a part's share is its weight divided by the sum of all.
        exhausted: `repeat` or `end`, see `sft.data.mixing.order.counts`.
        batch_size: sequences a batch.

    Raises `BadInput` if an epoch has fewer sequences than a batch.
    """

    def __init__(
        self,
        supplies: Mapping[str, Supply],
        weights: Mapping[str, float],
        exhausted: str,
        batch_size: int,
    ):
        # By name: in which order the parts are written changes nothing.
        self.supplies = dict(sorted(supplies.items()))
        self.weights = {name: weights[name] for name in self.supplies}
        self.exhausted = exhausted
        self.batch_size = batch_size
        self.special_tokens = together.special_tokens(self._datasets.values())
        # Batches of a dataset of the user's own are taken apart: what it knows is of the whole.
        apart = any(isinstance(supply, FromBatches) for supply in self.supplies.values())
        self.num_bytes: Callable[[int], int] | None = None if apart else self._num_bytes
        """UTF-8 bytes of the trained text of a batch; None if a part does not know them."""
        self._lay_out()

    def _lay_out(self) -> None:
        sizes = {name: supply.size for name, supply in self.supplies.items()}
        self.counts = counts(sizes, self.weights, self.exhausted)
        self.length = sum(self.counts.values())
        if self.length < self.batch_size:
            raise BadInput(
                f"batch_size: {self.batch_size} is more than the {self.length} sequences of an "
                "epoch of the mixture; set a smaller batch_size"
            )
        self._seed: int | None = None
        self._last: tuple[int, int] | None = None

    @property
    def _datasets(self) -> dict[str, SupervisedDataset]:
        # Of a part that leaves something out or has a cap, the dataset becomes another.
        return {name: supply.dataset for name, supply in self.supplies.items()}

    def leave_out(self, digests: np.ndarray) -> None:
        """Train on no conversation of these `digests` (uint64), before the first epoch."""
        for supply in self.supplies.values():
            supply.leave_out(digests)
        self._lay_out()

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def set_epoch(self, seed: int = 0) -> None:
        self._seed = seed
        self._last = None
        self._parts, self._numbers = order(list(self.counts.values()), seed)
        for name, supply in self.supplies.items():
            supply.begin(seed_of(seed, name))

    def get_batch(self, index: int) -> list[tinker.Datum]:
        """Raises `IndexError` beyond the epoch, and what a part raises."""
        drawn = self._batch(index)
        self._last = (index, sum(num_bytes for _, num_bytes in drawn))
        return [datum for datum, _ in drawn]

    def _num_bytes(self, index: int) -> int:
        if self._last is None or self._last[0] != index:
            return sum(num_bytes for _, num_bytes in self._batch(index))
        return self._last[1]

    def _batch(self, index: int) -> list[Drawn]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        if self._seed is None:
            self.set_epoch()
        supplies = list(self.supplies.values())
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        places = zip(self._parts[rows].tolist(), self._numbers[rows].tolist(), strict=True)
        return [supplies[part].draw(number) for part, number in places]

    @property
    def digest(self) -> str | None:
        """Of the parts' data and how they are mixed; None if a part has none."""
        return together.digest(self._datasets, self.counts)

    @property
    def statistics(self) -> DataStatistics:
        """Of the parts that count themselves; what an epoch holds of each is in the report."""
        return merged(
            {name: getattr(own, "statistics", None) for name, own in self._datasets.items()},
            Report(found=f"a mixture of {', '.join(self.supplies)}", said=self._sentences()),
        )

    def _sentences(self) -> list[str]:
        return [
            f"part {name}{_found(supply.dataset)}: {self.counts[name] / self.length:.1%} of the "
            f"sequences; {supply.used(self.counts[name])}"
            for name, supply in self.supplies.items()
        ]


def _found(dataset: SupervisedDataset) -> str:
    """What the data of a part is, in brackets."""
    counted = getattr(dataset, "statistics", None)
    report = counted.report if counted else getattr(dataset, "report", None)
    return f" ({report.found})" if report and report.found else ""


def of_streams(dataset: SupervisedDataset) -> Report | None:
    """What became of the rows that were read as streams so far; None if nothing is a stream."""
    if isinstance(dataset, ChatStream):
        return dataset.report
    if not isinstance(dataset, MixedDataset):
        return None
    streams = {
        name: supply.dataset.report
        for name, supply in dataset.supplies.items()
        if isinstance(supply.dataset, ChatStream)
    }
    report = Report()
    for name, read in streams.items():
        report.add(_of_part(read, name))
    return report if streams else None


def merged(parts: Mapping[str, DataStatistics | None], report: Report) -> DataStatistics:
    """The sum of what the parts count, with their reports, whose sentences name the part."""
    known = {name: counted for name, counted in parts.items() if counted is not None}
    numbers = [item.name for item in dataclasses.fields(DataStatistics) if item.name != "report"]
    for name, counted in known.items():
        report.add(_of_part(counted.report, name))
    return DataStatistics(
        **{name: sum(getattr(counted, name) for counted in known.values()) for name in numbers},
        report=report,
    )


def _of_part(report: Report, part: str) -> Report:
    """A part's report with its name in every sentence."""
    return Report(
        found=report.found,
        unused=[f"{column} ({part})" for column in report.unused],
        fields=[f"{name} ({part})" for name in report.fields],
        left_out={f"{part}: {kind}": left for kind, left in report.left_out.items()},
        notes={f"{part}: {kind}": count for kind, count in report.notes.items()},
        said=[f"{part}: {sentence}" for sentence in report.said],
    )
