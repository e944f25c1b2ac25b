"""Passes over a base model: from requests to packs, and from packs back to results.

A request is cut into pieces by what it holds alone. On the CPU every piece is a pass of its own,
computed by one worker: bit for bit the same whatever else is queued, by construction. On a GPU,
where small passes would idle it, pieces of several requests are joined; each sequence still goes
through its own adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sft.local import network, packing
from sft.local.engine_api import TrainingSequence, Work
from sft.local.lora import Adapter, Run
from sft.local.packing import Pack
from sft.local.workers import Workers

# Most tokens in one piece (a large model gets fewer, but no fewer than the least) and in one pass.
PIECE_TOKENS = {"cpu": 1024, "cuda": 8192}
PASS_TOKENS = {"cpu": 0, "cuda": 16384}
LEAST_TOKENS = 256
SMALLEST_PIECE = 64  # tokens worth a piece of their own where another worker is free


@dataclass(frozen=True)
class Piece:
    """Sequences of one request that are computed together; `indices` are theirs in it."""

    request: int
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
    """float32 logprobs of each sequence, and the gradient of the piece's loss (None: forward)."""

    logprobs: list[np.ndarray]
    gradient: Tensor | None


def pieces(request: int, adapter: Adapter, work: Work, workers: Workers) -> list[Piece]:
    """Cut one request; the same request is always cut the same way."""
    base = adapter.base
    # Smaller pieces for a larger model, rather than to compute its layers once more.
    tokens = min(PIECE_TOKENS[base.device.type], max(network.tokens_kept(base), LEAST_TOKENS))
    parts = packing.split(
        [len(sequence.tokens) for sequence in work.sequences],
        budget=tokens,
        workers=workers.count,
        smallest=SMALLEST_PIECE,
    )
    return [Piece(request, adapter, work, indices) for indices in parts]


def join(queue: list[Piece]) -> list[list[Piece]]:
    """Group neighbouring pieces into passes: one base model and direction in each."""
    passes: list[list[Piece]] = []
    size = 0
    for piece in queue:
        budget = PASS_TOKENS[piece.adapter.base.device.type]
        last = passes[-1][-1] if passes else None
        fits = (
            last is not None
            and last.adapter.base is piece.adapter.base
            and last.work.backward == piece.work.backward
            and size + piece.tokens <= budget
        )
        if fits:
            passes[-1].append(piece)
            size += piece.tokens
        else:
            passes.append([piece])
            size = piece.tokens
    return passes


def compute(group: list[Piece]) -> list[PieceResult]:
    """One pass over the base model: forward, and backward where the requests ask for it."""
    base = group[0].adapter.base
    backward = group[0].work.backward
    sequences = [sequence for piece in group for sequence in piece.sequences]
    lengths = [len(sequence.tokens) for sequence in sequences]
    runs, gradients, start = [], [], 0
    for piece in group:
        adapter = piece.adapter
        gradient = torch.zeros_like(adapter.weights) if backward else None
        views = None if gradient is None else adapter.layout.views(gradient)
        runs.append(Run(start, start + piece.tokens, adapter.compute(), adapter.scale, views))
        gradients.append(gradient)
        start += piece.tokens
    pack = Pack(
        _joined([sequence.tokens for sequence in sequences], np.int64, base.device),
        packing.positions(lengths).to(base.device),
        lengths,
        runs,
    )
    targets = _joined([sequence.targets for sequence in sequences], np.int64, base.device)
    if backward:
        weights = _joined([sequence.weights for sequence in sequences], np.float32, base.device)
        logprobs = network.loss_backward(base, pack, targets, weights)
    else:
        logprobs = network.logprobs(base, pack, targets)
    parts = iter(np.split(logprobs.cpu().numpy(), np.cumsum(lengths)[:-1]))
    return [
        PieceResult([next(parts) for _ in piece.indices], gradient)
        for piece, gradient in zip(group, gradients, strict=True)
    ]


def _joined(arrays: list[np.ndarray], dtype: type, device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(dtype, copy=False)).to(device)
