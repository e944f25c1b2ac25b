"""The keys and values of one sequence, which its next tokens attend to."""

from __future__ import annotations

import torch
from torch import Tensor

from sft.local.engine.models import BaseModel


class Cache:
    """Keys and values of one sequence: [layers, 2, kv_heads, capacity, head_dim]."""

    def __init__(self, store: Tensor, length: int = 0):
        self._store = store
        self.length = length  # positions that are filled

    @staticmethod
    def empty(base: BaseModel, capacity: int) -> Cache:
        shape = (len(base.layers), 2, base.kv_heads, capacity, base.head_dim)
        return Cache(torch.empty(shape, dtype=base.dtype, device=base.device))

    def put(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write k, v [T, kv_heads, D] at `length`.

        `length` itself is moved on by the caller, once for all layers.
        """
        end = self.length + len(k)
        store = self._store[layer]
        store[0, :, self.length : end] = k.transpose(0, 1)
        store[1, :, self.length : end] = v.transpose(0, 1)

    def moved(self, store: Tensor) -> Cache:
        """The same in `store`, of the same shape but for the capacity; the rest of it is zeros."""
        store[..., : self.length, :] = self._store[..., : self.length, :]
        store[..., self.length :, :] = 0
        return Cache(store, self.length)
