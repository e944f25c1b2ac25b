"""The pack: what one pass over the base model computes, sequences laid end to end without padding.

Each worker thread computes one pack at a time. Pieces of requests (`pieces`) and prompts
(`prefill`) are laid into packs; which of them share one, `shared_passes` says.
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
    """One pass. `tokens` and `positions` are int64 [N]; `lengths` sum to N.

    `runs` say which rows go through which adapter.
    """

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


def even_groups(lengths: list[int], most: int, workers: int, smallest: int) -> list[list[int]]:
    """Divide what has these lengths in tokens into groups of about equal size.

    A group holds at most `most` tokens (what is longer has one to itself). The number of groups is
    a multiple of `workers` if that leaves at least `smallest` tokens in each. Longest first into
    the emptiest group (Graham 1969); within a group in the order given.

    Returns:
        The indices in each group.
    """
    total = sum(lengths)
    count = -(-total // most)
    count = -(-count // workers) * workers
    count = max(1, min(count, len(lengths), max(total // smallest, -(-total // most))))
    while True:
        groups: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            emptiest = sizes.index(min(sizes))
            groups[emptiest].append(index)
            sizes[emptiest] += lengths[index]
        if count >= len(lengths) or max(sizes) <= max(most, max(lengths)):
            return [sorted(group) for group in groups if group]
        count += 1
