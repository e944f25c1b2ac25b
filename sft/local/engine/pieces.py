"""Pieces: what a training request is cut into, and how pieces are computed in one pass.

A request is cut by what it holds alone. So its numbers do not depend on what else is queued. A pass
computes one piece or several (`shared_passes`), each through its own adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sft.local.engine import network, packs
from sft.local.engine.aims import aim, parts_of
from sft.local.engine.lora import Adapter, LoraViews, Run
from sft.local.engine.models import BaseModel
from sft.local.engine.packs import Pack
from sft.local.engine.workers import Workers
from sft.local.engine_api import TrainingSequence, Work

PIECE_TOKENS = {"cpu": 1024, "cuda": 8192}  # in a piece, at most
LEAST_TOKENS = 256  # what `most_tokens` gives at least, also for a very large model
SMALLEST_PIECE = 64  # tokens worth a piece of their own if another worker is free


@dataclass(frozen=True)
class Piece:
    """Sequences of one request that are computed together; `indices` are theirs in it.

    `place` is that of the piece among those of its request.
    """

    request: int
    place: int
    adapter: Adapter
    work: Work
    indices: list[int]

    @property
    def sequences(self) -> list[TrainingSequence]:
        return [self.work.sequences[index] for index in self.indices]

    @property
    def tokens(self) -> int:
        return sum(len(sequence.tokens) for sequence in self.sequences)


@dataclass
class PieceResult:
    """float32 logprobs of each sequence's targets, and the gradient of the piece's loss.

    `gradient` is None for a forward, and if it is part of that of the request's first piece.
    """

    logprobs: list[np.ndarray]
    gradient: Tensor | None


def cut(request: int, adapter: Adapter, work: Work, workers: Workers) -> list[Piece]:
    """Cut one request; the same request is always cut the same way."""
    base = adapter.base
    parts = packs.even_groups(
        [len(sequence.tokens) for sequence in work.sequences],
        most=most_tokens(base, PIECE_TOKENS),
        workers=workers.count,
        smallest=SMALLEST_PIECE,
    )
    return [Piece(request, place, adapter, work, part) for place, part in enumerate(parts)]


def most_tokens(base: BaseModel, tokens: dict[str, int]) -> int:
    """`tokens` of the base model's device; fewer for a large model, rather than to compute its
    layers once more, but not very few."""
    return min(tokens[base.device.type], max(network.tokens_kept(base), LEAST_TOKENS))


def compute(group: list[Piece]) -> list[PieceResult]:
    """One pass over the base model: forward, and backward if the requests ask for it."""
    base = group[0].adapter.base
    backward = group[0].work.backward
    sequences = [sequence for piece in group for sequence in piece.sequences]
    lengths = [len(sequence.tokens) for sequence in sequences]
    gradients = _gradients(group) if backward else [(None, None)] * len(group)
    runs, start = [], 0
    loras: dict[int, list[LoraViews | None]] = {}  # one copy for all pieces of an adapter
    for piece, (_, views) in zip(group, gradients, strict=True):
        adapter = piece.adapter
        if id(adapter) not in loras:
            loras[id(adapter)] = adapter.compute()
        lora = loras[id(adapter)]
        runs.append(Run(start, start + piece.tokens, lora, adapter.scale, views))
        start += piece.tokens
    tokens = np.concatenate([sequence.tokens for sequence in sequences])
    pack = Pack(
        torch.from_numpy(tokens.astype(np.int64, copy=False)).to(base.device),
        packs.positions(lengths).to(base.device),
        lengths,
        runs,
    )
    aims = [aim(piece.sequences, piece.work.loss, base.device) for piece in group]
    if backward:
        logprobs = network.loss_backward(base, pack, aims)
    else:
        logprobs = network.logprobs(base, pack, [one.targets for one in aims])
    return [
        PieceResult(parts_of(found, piece.sequences), gradient)
        for piece, found, (gradient, _) in zip(group, logprobs, gradients, strict=True)
    ]


def _gradients(group: list[Piece]) -> list[tuple[Tensor | None, list[LoraViews | None]]]:
    """A vector of zeros for each piece, and its views.

    The first pieces of a request have one vector together (None but for the first of them): a pass
    adds them in their order, and the sum is that of pieces computed by themselves.
    """
    made: list[tuple[Tensor | None, list[LoraViews | None]]] = []
    together = 0  # pieces in the last vector, if they are the first of their request
    for piece, before in zip(group, [None, *group], strict=False):
        if piece.place and before and (before.request, together) == (piece.request, piece.place):
            made.append((None, made[-1][1]))
            together += 1
            continue
        vector = torch.zeros_like(piece.adapter.weights)
        made.append((vector, piece.adapter.layout.views(vector)))
        together = 0 if piece.place else 1
    return made
