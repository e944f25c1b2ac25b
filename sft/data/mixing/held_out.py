"""What a run trains on and what it measures: the main held-out set, and further ones by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sft.data.builders import ChatRowsBuilder
from sft.data.mixing import together
from sft.data.mixing.dataset import merged
from sft.data.mixing.named_sets import check_names, named, with_common
from sft.errors import BadInput
from sft.rendering.report import Report
from sft.tokens.table import TokenisedDataset
from sft.types import ChatDatasetBuilder, EvalSet, SupervisedDataset, SupervisedDatasetBuilder

if TYPE_CHECKING:
    import tinker


class SeveralHeldOut(SupervisedDataset):
    """Held-out sets as one, which knows its `parts` by name."""

    def __init__(self, parts: Mapping[str, SupervisedDataset]):
        self.parts = dict(sorted(parts.items()))
        self._batches = [
            (part, index) for part in self.parts.values() for index in range(len(part))
        ]
        self.num_bytes: Callable[[int], int] | None = (
            self._num_bytes if together.know_bytes(self.parts.values()) else None
        )
        self.special_tokens = together.special_tokens(self.parts.values())
        counted = {name: getattr(part, "statistics", None) for name, part in self.parts.items()}
        self.statistics = None if None in counted.values() else merged(counted, Report())
        self.digest = together.digest(self.parts)

    def __len__(self) -> int:
        return len(self._batches)

    def get_batch(self, index: int) -> list[tinker.Datum]:
        part, inner = self._batches[index]
        return part.get_batch(inner)

    def _num_bytes(self, index: int) -> int:
        part, inner = self._batches[index]
        num_bytes: int = part.num_bytes(inner)  # type: ignore[attr-defined]  # all have it
        return num_bytes


@dataclass
class Data:
    """What a builder gives to a run."""

    train: SupervisedDataset
    held_out: SupervisedDataset | None
    """What `eval/nll` is measured on: the builder's own held-out data, or if there is none, all
    of the named sets together."""
    eval_sets: dict[str, SupervisedDataset] = field(default_factory=dict)
    """The named sets that are measured beside it, each as `eval/NAME/nll`."""

    def named_digests(self) -> dict[str, str | None]:
        """The digest of every set that `eval_sets` of the builder names."""
        sets = self.eval_sets
        if isinstance(self.held_out, SeveralHeldOut):
            sets = {**self.held_out.parts, **sets}
        return {name: getattr(dataset, "digest", None) for name, dataset in sets.items()}


def built(builder: SupervisedDatasetBuilder) -> Data:
    """The data of `builder`. No conversation of a held-out set is trained on.

    Raises `BadInput`.
    """
    train, held_out = builder()
    sets: dict[str, EvalSet] = getattr(builder, "eval_sets", {})
    if not sets or not isinstance(builder, ChatDatasetBuilder):
        return Data(train, held_out)
    check_names(sets, "dataset.eval_sets", getattr(held_out, "parts", ()))
    measured = {
        name: named(f"dataset.eval_sets.{name}", partial(_whole, builder, one))
        for name, one in sorted(sets.items())
    }
    keep_apart(train, measured.values())
    if held_out is None:
        return Data(train, SeveralHeldOut(measured))
    return Data(train, held_out, measured)


def keep_apart(train: SupervisedDataset, held_out: Iterable[SupervisedDataset]) -> None:
    """Take what is held out from what is trained on, if both know their conversations."""
    if not hasattr(train, "leave_out"):
        return
    for dataset in held_out:
        if hasattr(dataset, "conversation_digests"):
            train.leave_out(dataset.conversation_digests)


def _whole(owner: ChatDatasetBuilder, one: EvalSet) -> SupervisedDataset:
    """All that a set names, or `cap` of it."""
    builder = with_common(one.builder, owner.common_config, one.train_on_what)
    if isinstance(builder, ChatRowsBuilder):
        return builder.measured(one.cap)
    dataset, _ = builder()
    if one.cap is not None:
        if not isinstance(dataset, TokenisedDataset):
            raise BadInput(f"cap: {type(builder).__name__} gives batches, which it cannot count")
        dataset = dataset.at_most(one.cap)
    return dataset
