"""Packs: sequences laid end to end without padding, computed in one pass over the base model.

How a request is cut depends on the request alone, so that its numbers do not depend on what else is
computed. Each worker thread computes one pack at a time; what may be joined in one, `joining` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from sft.local.engine.lora import Run


@dataclass
class Pack:
    """One pass. `tokens` and `positions` are int64 [N]; `lengths` sum to N."""

    tokens: Tensor
    positions: Tensor
    lengths: list[int]
    runs: list[Run]


def bounds(lengths: Iterable[int]) -> list[tuple[int, int]]:
    """First and one past the last row of each sequence."""
    return list(pairwise(accumulate(lengths, initial=0)))


def positions(lengths: list[int]) -> Tensor:
    """Positions that restart with each sequence: int64 [sum of lengths]."""
    return torch.cat([torch.arange(length) for length in lengths])


def split(lengths: list[int], budget: int, workers: int, smallest: int) -> list[list[int]]:
    """Divide sequences into packs of about equal size; returns the indices in each.

    Packs hold at most `budget` tokens (a longer sequence has one to itself) and their number is a
    multiple of `workers` where that leaves at least `smallest` tokens in each. Longest first into
    the emptiest pack (Graham 1969); within a pack in the order given.
    """
    total = sum(lengths)
    count = -(-total // budget)
    count = -(-count // workers) * workers
    count = max(1, min(count, len(lengths), max(total // smallest, -(-total // budget))))
    while True:
        packs: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            emptiest = sizes.index(min(sizes))
            packs[emptiest].append(index)
            sizes[emptiest] += lengths[index]
        if count >= len(lengths) or max(sizes) <= max(budget, max(lengths)):
            return [sorted(pack) for pack in packs if pack]
        count += 1
