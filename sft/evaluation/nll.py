"""Held-out NLL: a pass over sequences that are not trained on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sft.cost.usage import Usage
from sft.evaluation.interface import gather_bounded, prefix
from sft.record.examples import Examples
from sft.record.fingerprints import sequences
from sft.record.metrics import Nats, nats, summarize
from sft.types import SupervisedDataset

if TYPE_CHECKING:
    import tinker


class NLLEvaluator:
    """Held-out NLL in nats per trained token (`eval/nll`) and bits per byte (`eval/bpb`).

    Another data set beside the held-out one has another name: `NLLEvaluator(dataset, "code")`
    measures `eval/code/nll`. Of a dataset with `parts`, a mapping of names to datasets, one pass
    measures the whole and each part, as `eval/PART/nll`.
    """

    def __init__(self, dataset: SupervisedDataset, name: str = "nll"):
        self.dataset = dataset
        self.name = name
        self.prefix = prefix(name, "nll")
        self.parts: dict[str, SupervisedDataset] = getattr(dataset, "parts", None) or {}
        prefixes = [self.prefix, *(prefix(part, "nll") for part in self.parts)]
        self.metrics = tuple(f"{one}/{what}" for one in prefixes for what in ("nll", "bpb"))
        self.examples: dict[str, Examples] = {}
        """What `eval/nll` and each `eval/PART/nll` is made of, after a call: nats and trained
        tokens of each conversation."""
        self._read: dict[str, Sequences] | None = None
        self.digest: str | None = None
        """Of all held-out sequences, once they were read."""

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]:
        if self._read is None:
            self._read = await asyncio.to_thread(self._whole)
            self.digest = await asyncio.to_thread(self._digest)

        async def score(
            datum: tinker.Datum, full: tinker.ModelInput, special_tokens: frozenset[int]
        ) -> Nats:
            # Logprob i of the full sequence belongs to its token i: target i is token i + 1.
            logprobs = await sampling_client.compute_logprobs(full)
            return nats(datum, logprobs[1:], special_tokens)

        jobs = [
            partial(score, datum, full, one.special_tokens)
            for one in self._read.values()
            for datum, full in zip(one.data, one.full, strict=True)
        ]
        scores = iter(await gather_bounded(jobs))
        scored = {
            name: list(itertools.islice(scores, len(one.data))) for name, one in self._read.items()
        }
        found = {name: sum(each, Nats()) for name, each in scored.items()}
        sizes = {name: one.num_bytes for name, one in self._read.items()}
        whole = None if None in sizes.values() else sum(filter(None, sizes.values()))
        metrics = summarize(sum(found.values(), Nats()), whole, self.prefix)
        for name in self.parts:
            metrics |= summarize(found[name], sizes[name], prefix(name, "nll"))
        self.examples = {
            f"{prefix(name, 'nll')}/nll": _examples(scored[name], one.groups, one.digest)
            for name, one in self._read.items()
            if name in self.parts
        }
        every = [one for each in scored.values() for one in each]
        self.examples[f"{self.prefix}/nll"] = _examples(
            every,
            [(name, group) for name, one in self._read.items() for group in one.groups],
            self.digest or "",
        )
        return metrics

    def usage(self) -> Usage | None:
        """Of a call: every held-out sequence as a prompt. None if the dataset does not count itself
        and was not read yet."""
        if (counted := getattr(self.dataset, "statistics", None)) is not None:
            return Usage(prefill=counted.tokens, sample=counted.datums)
        if self._read is None:
            return None
        full = [whole.length for one in self._read.values() for whole in one.full]
        return Usage(prefill=sum(full), sample=len(full))

    def _whole(self) -> dict[str, Sequences]:
        """Every sequence of each part; without parts, of the dataset under its own name."""
        parts = self.parts or {self.name: self.dataset}
        return {name: Sequences.of(dataset) for name, dataset in parts.items()}

    def _digest(self) -> str:
        """Of all that was read."""
        read = list((self._read or {}).values())
        if len(read) == 1:
            return read[0].digest
        return sequences(datum for one in read for datum in one.data)


def _examples(scores: list[Nats], groups: Iterable[Hashable], digest: str) -> Examples:
    """The nats and trained tokens of each conversation; `groups` name that of each sequence.

    A template may write one conversation as several sequences. They say much the same, so that
    counted one by one they would promise more than they know.
    """
    together: dict[Hashable, Nats] = {}
    for group, score in zip(groups, scores, strict=True):
        together[group] = together.get(group, Nats()) + score
    if len(together) < len(scores):
        digest = f"{digest}-{len(together)}"
    totals = [one.total for one in together.values()]
    return Examples(totals, [float(one.tokens) for one in together.values()], digest)


@dataclass
class Sequences:
    """All sequences of a dataset."""

    data: list[tinker.Datum]
    groups: list[int]
    """The conversation of each, as a number; without knowledge of them, each is one of its own."""
    full: list[tinker.ModelInput]
    """The same one token longer, as evaluations ask for them."""
    num_bytes: int | None
    """UTF-8 bytes of their trained text, if the dataset knows them."""
    special_tokens: frozenset[int]
    digest: str
    """Of their tokens, targets and weights."""

    @classmethod
    def of(cls, dataset: SupervisedDataset) -> Sequences:
        num_bytes = getattr(dataset, "num_bytes", None)
        groups_of = getattr(dataset, "conversations_of", None)
        data: list[tinker.Datum] = []
        groups: list[int] = []
        total = 0
        for index in range(len(dataset)):
            batch = dataset.get_batch(index)
            first = len(data)
            groups += groups_of(index) if groups_of else range(first, first + len(batch))
            data += batch
            total += num_bytes(index) if num_bytes else 0
        special_tokens: frozenset[int] = getattr(dataset, "special_tokens", frozenset())
        full = [full_sequence(datum) for datum in data]
        return cls(data, groups, full, total or None, special_tokens, sequences(data))


def full_sequence(datum: tinker.Datum) -> tinker.ModelInput:
    """The sequence that `datum`'s shifted input and targets were cut from: one token longer."""
    import tinker

    tokens = datum.model_input.to_ints()
    last = int(datum.loss_fn_inputs["target_tokens"].to_numpy()[-1])
    return tinker.ModelInput.from_ints([*tokens, last])
