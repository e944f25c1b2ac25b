"""Held-out NLL: a pass over sequences that are not trained on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from sft.evaluation.interface import gather_bounded, prefix
from sft.record.fingerprints import sequences
from sft.record.metrics import Nats, nats, summarize
from sft.types import SupervisedDataset

if TYPE_CHECKING:
    import tinker


class NLLEvaluator:
    """Held-out NLL in nats per trained token (`eval/nll`) and bits per byte (`eval/bpb`).

    Another data set beside the held-out one has another name: `NLLEvaluator(dataset, "code")`
    measures `eval/code/nll`.
    """

    def __init__(self, dataset: SupervisedDataset, name: str = "nll"):
        self.dataset = dataset
        self.name = name
        self.prefix = prefix(name, "nll")
        self.metrics = (f"{self.prefix}/nll", f"{self.prefix}/bpb")
        self._read: tuple[list[tinker.Datum], int | None] | None = None
        self.digest: str | None = None
        """Of all held-out sequences, once they were read."""

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]:
        if self._read is None:
            self._read = await asyncio.to_thread(_whole, self.dataset)
            self.digest = await asyncio.to_thread(sequences, self._read[0])
        data, num_bytes = self._read
        special_tokens: frozenset[int] = getattr(self.dataset, "special_tokens", frozenset())

        async def score(datum: tinker.Datum) -> Nats:
            # Logprob i of the full sequence belongs to its token i: target i is token i + 1.
            logprobs = await sampling_client.compute_logprobs(full_sequence(datum))
            return nats(datum, logprobs[1:], special_tokens)

        scores = await gather_bounded([partial(score, datum) for datum in data])
        return summarize(sum(scores, Nats()), num_bytes, self.prefix)


def _whole(dataset: SupervisedDataset) -> tuple[list[tinker.Datum], int | None]:
    """Every sequence of `dataset`, and the bytes of their trained text or None."""
    num_bytes = getattr(dataset, "num_bytes", None)
    data: list[tinker.Datum] = []
    total = 0
    for index in range(len(dataset)):
        data += dataset.get_batch(index)
        total += num_bytes(index) if num_bytes else 0
    return data, total or None


def full_sequence(datum: tinker.Datum) -> tinker.ModelInput:
    """The sequence that `datum`'s shifted input and targets were cut from: one token longer."""
    import tinker

    tokens = datum.model_input.to_ints()
    last = int(datum.loss_fn_inputs["target_tokens"].to_numpy()[-1])
    return tinker.ModelInput.from_ints([*tokens, last])
