"""`dataset=mix`: data of several kinds, trained as one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sft.data.mixing.dataset import MixedDataset
from sft.data.mixing.held_out import SeveralHeldOut, keep_apart
from sft.data.mixing.named_sets import check_names, named, with_common
from sft.data.mixing.order import EXHAUSTED
from sft.data.mixing.supplies import FromBatches, FromStream, FromTable, Supply
from sft.data.streaming import ChatStream, HFStreamBuilder
from sft.errors import BadInput
from sft.keys import key
from sft.rendering.conversations import TRAIN_ON_WHAT
from sft.tokens.table import TokenisedDataset
from sft.types import ChatDatasetBuilder, SupervisedDataset, SupervisedDatasetBuilder

ENDLESS = 2**62
"""Batches of a stream that has no end."""


@dataclass
class Part:
    """A part of a mixture: what it is, and how much of it is trained on."""

    builder: SupervisedDatasetBuilder
    """Says what it is. Its `common_config` is the mixture's, but for `train_on_what`."""
    weight: float = key(
        1.0, "its share of the sequences, beside the other parts'; 0: only measured", minimum=0
    )
    cap: int | None = key(None, "conversations to train on at most; null: all", minimum=1)
    train_on_what: str | None = key(
        None, "messages that carry loss; null: as the run's train_on_what", choices=TRAIN_ON_WHAT
    )


@dataclass
class MixBuilder(ChatDatasetBuilder):
    """Several data sets as one: each sequence of a batch comes from a part, by the parts' weights.

    What the parts hold out is measured together (`eval/nll`) and each on its own
    (`eval/NAME/nll`). No part trains on what another one holds out.
    """

    parts: dict[str, Part] = key({}, "parts by name, each {path: …} or {kind: …}, and its weight")
    exhausted: str = key(
        "repeat",
        "a part that has no more: repeat it (an epoch is as long as all parts together), or end "
        "the epoch",
        choices=EXHAUSTED,
    )

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Raises `BadInput`, also if no part has a weight."""
        check_parts({name: part.weight for name, part in self.parts.items()})
        supplies: dict[str, Supply] = {}
        held: dict[str, SupervisedDataset] = {}
        for name, part in sorted(self.parts.items()):
            supply, held_out = named(f"dataset.parts.{name}", partial(self._built, part))
            if held_out is not None:
                held[name] = held_out
            if part.weight:
                supplies[name] = supply
        weights = {name: self.parts[name].weight for name in supplies}
        size = self.common_config.batch_size
        mixed = MixedDataset(supplies, weights, self.exhausted, size)
        keep_apart(mixed, held.values())
        return mixed, SeveralHeldOut(held) if held else None

    def _built(self, part: Part) -> tuple[Supply, SupervisedDataset | None]:
        # In batches of one sequence, which are put together anew.
        common = dataclasses.replace(self.common_config, batch_size=1)
        builder = with_common(part.builder, common, part.train_on_what)
        size = 0
        if isinstance(builder, HFStreamBuilder):
            size = builder.steps_per_epoch * self.common_config.batch_size
            builder = dataclasses.replace(builder, steps_per_epoch=ENDLESS)
        train, held_out = builder()
        if isinstance(train, TokenisedDataset) and train.batch_size == 1:
            return FromTable(train, part.cap), held_out
        if isinstance(train, ChatStream) and isinstance(builder, HFStreamBuilder):
            if part.cap is not None:
                # The rows that are held out come first.
                ahead = builder.eval_size if builder.eval_split is None else 0
                train.first_rows(part.cap + ahead)
            return FromStream(train, size), held_out
        return FromBatches(train, part.cap), held_out


def check_parts(weights: dict[str, float]) -> None:
    """Raise `BadInput` for names that metrics cannot have, and if no part has a weight."""
    if not weights:
        raise BadInput(
            "dataset.parts: is missing; name the parts: dataset.parts.NAME.path=FILE, or "
            "dataset.parts.NAME.kind=KIND"
        )
    check_names(weights, "dataset.parts")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise BadInput(f"dataset.parts.{name}.weight: {weight} is not a number of 0 or more")
    if not any(weights.values()):
        raise BadInput(
            "dataset.parts: every part has weight 0, so that there is nothing to train on"
        )
