"""What several datasets know as one: each of these holds only if every one of them knows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping

from sft.types import SupervisedDataset


def special_tokens(datasets: Collection[SupervisedDataset]) -> frozenset[int]:
    """The ids that are control tokens in one of them."""
    return frozenset().union(*(getattr(dataset, "special_tokens", ()) for dataset in datasets))


def know_bytes(datasets: Collection[SupervisedDataset]) -> bool:
    """Whether all can say how many UTF-8 bytes of text a batch trains."""
    return all(getattr(dataset, "num_bytes", None) is not None for dataset in datasets)


def digest(
    datasets: Mapping[str, SupervisedDataset], counts: Mapping[str, int] | None = None
) -> str | None:
    """Of the data by name, with how many sequences of each are used; None if one has none."""
    found = {name: getattr(dataset, "digest", None) for name, dataset in datasets.items()}
    if None in found.values():
        return None
    said = {name: [counts[name], own] for name, own in found.items()} if counts else found
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()
