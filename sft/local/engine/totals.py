"""The total of each request, added up from its pieces, and of each adapter, from its requests."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import numpy as np
import torch
from torch import Tensor

from sft.local.engine.lora import Adapter
from sft.local.engine.pieces import Piece, PieceResult
from sft.local.engine_api import EngineError, Work, WorkResult


class Totals:
    """Adds up the pieces of each request in their own order, also if they come in another one.

    `complete` hands an adapter its gradient once nothing of it is left to compute. So only a few
    gradients are there at once, even if many adapters train.
    """

    def __init__(self, work: list[Work]):
        self._work = work
        self._errors: list[EngineError | None] = [None] * len(work)
        self._gradients: list[Tensor | None] = [None] * len(work)
        self._logprobs: list[dict[int, np.ndarray]] = [{} for _ in work]  # by sequence
        self._order: dict[int, deque[Piece]] = defaultdict(deque)  # pieces to be added
        self._early: dict[int, PieceResult | EngineError] = {}  # by the piece's id
        self._left: Counter[str] = Counter()

    def expect(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._order[piece.request].append(piece)
            self._left[self._work[piece.request].model_id] += 1

    def fail(self, index: int, error: EngineError) -> None:
        self._errors[index] = self._errors[index] or error
        self._gradients[index] = None

    def add(self, piece: Piece, result: PieceResult | EngineError) -> bool:
        """Whether this was the last piece of its adapter."""
        index = piece.request
        self._early[id(piece)] = result
        order = self._order[index]
        while order and id(order[0]) in self._early:
            first = order.popleft()
            self._add(first, self._early.pop(id(first)))
        model_id = self._work[index].model_id
        self._left[model_id] -= 1
        return self._left[model_id] == 0

    def _add(self, piece: Piece, result: PieceResult | EngineError) -> None:
        index = piece.request
        if isinstance(result, EngineError):
            self.fail(index, result)
            return
        for sequence, logprobs in zip(piece.indices, result.logprobs, strict=True):
            self._logprobs[index][sequence] = logprobs
        if self._errors[index] is None:
            self._gradients[index] = _sum(self._gradients[index], result.gradient)

    def waits(self, model_id: str) -> bool:
        return self._left[model_id] > 0

    def complete(self, model_id: str, adapter: Adapter) -> None:
        """Add the gradients of the adapter's requests, those that failed excepted, to its own."""
        for index, one in enumerate(self._work):
            if one.model_id == model_id:
                adapter.gradient = _sum(adapter.gradient, self._gradients[index])
                self._gradients[index] = None

    def failed(self, model_id: str) -> bool:
        """Whether a gradient of this adapter is missing."""
        pairs = zip(self._work, self._errors, strict=True)
        return any(one.backward and one.model_id == model_id and error for one, error in pairs)

    def results(self) -> list[WorkResult | EngineError]:
        triples = zip(self._work, self._errors, self._logprobs, strict=True)
        return [error or _result(one, logprobs) for one, error, logprobs in triples]


def _sum(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total.add_(part)


def _result(work: Work, found: dict[int, np.ndarray]) -> WorkResult:
    logprobs = [found[index] for index in range(len(work.sequences))]
    return WorkResult(logprobs, _loss(work, logprobs))


def _loss(work: Work, logprobs: list[np.ndarray]) -> float:
    """In float64, sequence by sequence."""

    def flat(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.ravel().astype(np.float64))

    total = 0.0
    for sequence, found in zip(work.sequences, logprobs, strict=True):
        sampled = sequence.weights if sequence.sampled is None else sequence.sampled
        total += work.loss.total(flat(found), flat(sequence.weights), flat(sampled))
    return float(total)
