"""Aims: what the rows of one piece are to say, laid out for the head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sft.local.engine_api import TrainingSequence
from sft.local.losses import Loss


@dataclass(frozen=True)
class Aim:
    """Targets of n rows, K each, and what the loss takes of each of them.

    `targets` is int64 [n, K]; `factors` and `sampled` are float32 [n, K]. Sequences with fewer
    targets a row than others are filled up with token 0, of factor 0.
    """

    loss: Loss
    targets: Tensor
    factors: Tensor
    sampled: Tensor

    def rows(self) -> Tensor:
        """Of those that the loss needs, the places: int64 [m]."""
        if self.loss.policy:
            return torch.arange(len(self.targets), device=self.targets.device)
        return self.factors.any(dim=1).nonzero()[:, 0]


def aim(sequences: list[TrainingSequence], loss: Loss, device: torch.device) -> Aim:
    """What these sequences, laid end to end, are to say."""
    width = max(_width(sequence) for sequence in sequences)

    def joined(arrays: list[np.ndarray], dtype: type) -> Tensor:
        parts = [_filled(array, width) for array in arrays]
        return torch.from_numpy(np.concatenate(parts).astype(dtype, copy=False)).to(device)

    factors = joined([sequence.weights for sequence in sequences], np.float32)
    sampled = factors  # which nobody reads
    if loss.policy:
        given = [sequence.sampled for sequence in sequences if sequence.sampled is not None]
        sampled = joined(given, np.float32)
    targets = joined([sequence.targets for sequence in sequences], np.int64)
    return Aim(loss, targets, factors, sampled)


def parts_of(found: Tensor, sequences: list[TrainingSequence]) -> list[np.ndarray]:
    """What was found of each sequence, shaped as its targets; `found` is that of `aim` [n, K]."""
    ends = np.cumsum([len(sequence.targets) for sequence in sequences])[:-1]
    return [
        part[:, : _width(sequence)].reshape(sequence.targets.shape)
        for part, sequence in zip(np.split(found.cpu().numpy(), ends), sequences, strict=True)
    ]


def _width(sequence: TrainingSequence) -> int:
    return 1 if sequence.targets.ndim == 1 else sequence.targets.shape[1]


def _filled(array: np.ndarray, width: int) -> np.ndarray:
    """[n] or [n, k] as [n, width]."""
    columns = array[:, None] if array.ndim == 1 else array
    return np.pad(columns, ((0, 0), (0, width - columns.shape[1])))
