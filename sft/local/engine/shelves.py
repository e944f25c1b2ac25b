"""Shelves: the caches of the samples that go on, those of about the same length side by side.

A step's attention takes one kernel for each shelf instead of one for each sample. How far a cache
reaches on its shelf depends on its own length alone, and so do its numbers; what is past its length
is masked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sft.local.engine.models import BaseModel
from sft.local.engine.prefill import Stream
from sft.local.engine.workers import one_thread

ROWS = 4  # of a new shelf
LEAST = 64  # positions


def capacity(length: int) -> int:
    """Room for `length` positions, at most an eighth of it (or 64) more."""
    part = max(LEAST, 1 << length.bit_length() >> 4)
    return -(-length // part) * part


class Shelf:
    """Caches of one capacity: [layers, 2, rows, kv_heads, capacity, head_dim]."""

    def __init__(self, base: BaseModel, capacity: int):
        self.streams: list[Stream] = []
        self.capacity = capacity
        shape = (len(base.layers), 2, ROWS, base.kv_heads, capacity, base.head_dim)
        self.store = torch.empty(shape, dtype=base.dtype, device=base.device)

    def add(self, stream: Stream) -> None:
        row = len(self.streams)
        if row == self.store.shape[2]:
            layers, two, rows, *rest = self.store.shape
            self.store = self.store.new_empty((layers, two, 2 * rows, *rest))
            for place, other in enumerate(self.streams):
                self._lay(other, place)
        self.streams.append(stream)
        self._lay(stream, row)

    def remove(self, stream: Stream) -> None:
        """The last one takes its place."""
        row, last = self.streams.index(stream), self.streams.pop()
        if last is not stream:
            self.streams[row] = last
            self._lay(last, row)

    def _lay(self, stream: Stream, row: int) -> None:
        stream.cache = stream.cache.moved(self.store[:, :, row])


@dataclass
class Part:
    """Rows of a shelf, `start` to `end`, in one step."""

    base: BaseModel
    shelf: Shelf
    start: int
    end: int
    lengths: Tensor = field(init=False)  # int64 [rows], before the new token
    rows: Tensor = field(init=False)
    mask: Tensor = field(init=False)  # [rows, 1, 1, capacity]

    def __post_init__(self) -> None:
        device = self.base.device
        self.rows = torch.arange(self.end - self.start, device=device)
        lengths = [stream.cache.length for stream in self.streams]
        self.lengths = torch.tensor(lengths, device=device)
        past = torch.arange(self.shelf.capacity, device=device) > self.lengths[:, None, None, None]
        self.mask = torch.zeros(past.shape, dtype=self.base.dtype, device=device)
        self.mask.masked_fill_(past, float("-inf"))

    @property
    def streams(self) -> list[Stream]:
        return self.shelf.streams[self.start : self.end]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One new token each, q [rows, heads, D], k and v [rows, kv_heads, D] -> [rows, heads, D].

        Its key and value are put into the caches.
        """
        keys, values = self.shelf.store[layer, :, self.start : self.end]
        keys[self.rows, :, self.lengths] = k
        values[self.rows, :, self.lengths] = v
        # Query heads that share a key head are its rows: nothing is repeated.
        grouped = q.reshape(len(q), self.base.kv_heads, -1, self.base.head_dim)
        with one_thread():
            return functional.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=self.mask, scale=self.base.attention_scale
            ).reshape(q.shape)


class Shelves:
    """All shelves of the samples that go on."""

    def __init__(self, base: BaseModel):
        self._base = base
        self._shelves: dict[int, Shelf] = {}  # by their capacity

    def __len__(self) -> int:
        return sum(len(shelf.streams) for shelf in self._shelves.values())

    def add(self, streams: Iterable[Stream]) -> None:
        for stream in streams:
            size = capacity(stream.cache.length + 1)
            if size not in self._shelves:
                self._shelves[size] = Shelf(self._base, size)
            self._shelves[size].add(stream)

    def arrange(self) -> None:
        """After a step: those that are done go, those whose cache is full get a larger one."""
        for shelf in list(self._shelves.values()):
            for stream in list(shelf.streams):
                full = stream.cache.length == shelf.capacity
                if full and not stream.sampler.done:
                    self.add([stream])
                if full or stream.sampler.done:
                    shelf.remove(stream)
            if not shelf.streams:
                del self._shelves[shelf.capacity]

    def blocks(self, size: int) -> list[list[Part]]:
        """All samples, at most `size` in a block."""
        blocks: list[list[Part]] = [[]]
        room = size
        for shelf in self._shelves.values():
            start = 0
            while start < len(shelf.streams):
                if room == 0:
                    blocks.append([])
                    room = size
                end = min(start + room, len(shelf.streams))
                blocks[-1].append(Part(self._base, shelf, start, end))
                room -= end - start
                start = end
        return blocks
