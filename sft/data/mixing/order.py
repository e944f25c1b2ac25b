"""How many sequences each part of a mixture gives to an epoch, and in which order they come.

Shares hold exactly over an epoch, to the one sequence that rounding takes, and nearly so in every
stretch of it. A part that gives n sequences gives one in each n-th of the epoch, at a place drawn
at random within it (stratified sampling), so no batch is far from the shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

EXHAUSTED = ("repeat", "end")


def counts(
    sizes: Mapping[str, int], weights: Mapping[str, float], exhausted: str
) -> dict[str, int]:
    """How many sequences of an epoch come from each part, all weights above 0.

    With `repeat` an epoch has as many sequences as all parts together: a part whose share is more
    than it has is repeated, of another some are not used. With `end` it ends when the first part
    has given all it has, and nothing is repeated.

    >>> counts({"a": 100, "b": 900}, {"a": 1, "b": 3}, "repeat")
    {'a': 250, 'b': 750}
    >>> counts({"a": 100, "b": 900}, {"a": 1, "b": 3}, "end")
    {'a': 100, 'b': 300}
    """
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}  # 0.1 as written
    whole = sum(exact.values())
    shares = {name: weight / whole for name, weight in exact.items()}
    if exhausted == "end":
        length = min(int(sizes[name] / share) for name, share in shares.items())
    else:
        length = sum(sizes.values())
    return _rounded({name: length * share for name, share in shares.items()}, length)


def _rounded(shares: Mapping[str, Fraction], length: int) -> dict[str, int]:
    """Whole numbers that sum to `length`: the largest remainders are rounded up."""
    floors = {name: int(share) for name, share in shares.items()}
    missing = length - sum(floors.values())
    by_remainder = sorted(shares, key=lambda name: (floors[name] - shares[name], name))
    return {name: floor + (name in by_remainder[:missing]) for name, floor in floors.items()}


def order(given: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of an epoch's sequences, int16 [N], and each one's number within its part, int64.

    `given` holds how many come from each part.
    """
    import numpy as np

    # RandomState, whose stream NumPy promises never to change.
    random = np.random.RandomState(seed_of(seed, "order"))
    places = [(np.arange(count) + random.random_sample(count)) / count for count in given]
    parts = np.repeat(np.arange(len(given), dtype=np.int16), given)
    numbers = np.concatenate([np.arange(count) for count in given])
    chosen = np.argsort(np.concatenate(places), kind="stable")
    return parts[chosen], numbers[chosen]


def seed_of(seed: int, *words: object) -> int:
    """A seed of 31 bits for one purpose of an epoch: every library takes those."""
    text = " ".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1
