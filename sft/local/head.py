"""The unembedding and the loss, in blocks of rows: memory never grows with vocabulary x tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sft.local import linear
from sft.local.lora import Run
from sft.local.models import BaseModel

BLOCK = 128  # rows of logits at a time


def logprobs(base: BaseModel, normal: Tensor, targets: Tensor, runs: list[Run]) -> Tensor:
    """normal [N, hidden], targets [N] -> float32 logprobs of the targets [N]."""
    result = torch.empty(len(normal), dtype=torch.float32, device=base.device)
    for rows, part in _blocks(runs):
        logits = logits_of(base, normal[rows], [part])
        chosen = logits.gather(1, targets[rows, None])[:, 0]
        result[rows] = chosen - logits.logsumexp(dim=-1)
    return result


def loss_backward(
    base: BaseModel, normal: Tensor, targets: Tensor, weights: Tensor, runs: list[Run]
) -> tuple[Tensor, Tensor]:
    """Cross entropy where the weight is not zero: loss = sum of weight * -logprob.

    Args:
        normal: the last normalised hidden states [N, hidden].
        targets: int64 [N]. weights: float32 [N], of any sign.

    Returns:
        float32 logprobs [N] (0.0 where the weight is zero) and the gradient of `normal`. The
        gradients of the unembedding's LoRA are added to the runs'.
    """
    index = len(base.linears) - 1
    unembedding = base.linears[index]
    result = torch.zeros(len(normal), dtype=torch.float32, device=base.device)
    dnormal = torch.zeros_like(normal)
    for run in runs:
        trained = weights[run.rows].nonzero()[:, 0] + run.start
        for rows in trained.split(BLOCK):
            part = [_within(run, 0, len(rows))]
            x = normal[rows]
            logits, hidden = linear.forward(unembedding, index, x, part)
            logits = logits.float()
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            target = targets[rows, None]
            result[rows] = (logits.gather(1, target) - normaliser)[:, 0]
            weight = weights[rows, None]
            # d(-logprob)/dlogits = softmax - onehot
            gradient = logits.sub_(normaliser).exp_().mul_(weight)
            gradient.scatter_add_(1, target, -weight)
            dnormal[rows] = linear.backward(
                unembedding, index, x, hidden, gradient.to(base.dtype), part
            )
    return result, dnormal


def logits_of(base: BaseModel, normal: Tensor, runs: list[Run]) -> Tensor:
    """normal [N, hidden] -> float32 logits [N, vocab]."""
    index = len(base.linears) - 1
    return linear.forward(base.linears[index], index, normal, runs)[0].float()


def _blocks(runs: list[Run]) -> Iterator[tuple[slice, Run]]:
    """Rows of at most BLOCK within one run, with the run as one of just these rows."""
    for run in runs:
        for start in range(run.start, run.end, BLOCK):
            end = min(start + BLOCK, run.end)
            yield slice(start, end), _within(run, 0, end - start)


def _within(run: Run, start: int, end: int) -> Run:
    return Run(start, end, run.lora, run.scale, run.gradient)
