"""Batches in the order of training, made ready ahead of the steps that need them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sft.record.fingerprints import sequences

if TYPE_CHECKING:
    import tinker

    from sft.types import SupervisedDataset


FIRST_BATCHES = 8
"""Batches that are looked at before training starts; the others are as they are trained."""


@dataclass(frozen=True)
class Batch:
    """One step's sequences."""

    step: int
    data: list[tinker.Datum]
    tokens: int
    """Tokens of the model input, all sequences."""
    num_bytes: int | None
    """UTF-8 bytes of the trained text, if the dataset knows them."""
    digest: str
    """Of the tokens, targets and weights: what a reproduction has to train on."""
    special_tokens: frozenset[int] = frozenset()
    """Ids of the tokens that `num_bytes` leaves out."""


def steps_in_total(dataset: SupervisedDataset, epochs: int, max_steps: int | None) -> int:
    """Steps of a whole run: every batch of every epoch, or `max_steps` if that is fewer."""
    steps = len(dataset) * epochs
    return steps if max_steps is None else min(steps, max_steps)


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's order: different for every epoch, the same in every run."""
    return seed * 100_003 + epoch


def first_batches(dataset: SupervisedDataset, seed: int, steps: int) -> list[str]:
    """Of each batch of the first steps of a run, `FIRST_BATCHES` of one epoch at most.

    Only for a dataset that no run trains on: some can be read but once, or draw as they go.
    """
    dataset.set_epoch(epoch_seed(seed, 0))
    count = min(steps, len(dataset), FIRST_BATCHES)
    return [sequences(dataset.get_batch(index)) for index in range(count)]


@asynccontextmanager
async def prefetch(
    dataset: SupervisedDataset, *, start_step: int, total_steps: int, seed: int, ahead: int
) -> AsyncIterator[asyncio.Queue[Batch | Exception]]:
    """A queue that is filled with the batches of steps `start_step` to `total_steps` - 1.

    A thread fetches them, one after another and at most `ahead` before they are taken, so
    a slow dataset neither blocks the event loop nor stands between two steps. An error in the
    dataset is put in the queue in place of its batch.
    """
    queue: asyncio.Queue[Batch | Exception] = asyncio.Queue(maxsize=ahead)

    async def fill() -> None:
        epoch_now = None
        for step in range(start_step, total_steps):
            epoch, index = divmod(step, len(dataset))
            try:
                if epoch != epoch_now:
                    await asyncio.to_thread(dataset.set_epoch, epoch_seed(seed, epoch))
                    epoch_now = epoch
                batch = await asyncio.to_thread(_fetch, dataset, step, index)
            except Exception as error:
                await queue.put(error)
                return
            await queue.put(batch)

    task = asyncio.create_task(fill())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _fetch(dataset: SupervisedDataset, step: int, index: int) -> Batch:
    data = dataset.get_batch(index)
    num_bytes = getattr(dataset, "num_bytes", None)
    return Batch(
        step=step,
        data=data,
        tokens=sum(datum.model_input.length for datum in data),
        num_bytes=num_bytes(index) if num_bytes else None,
        digest=sequences(data),
        special_tokens=getattr(dataset, "special_tokens", frozenset()),
    )
