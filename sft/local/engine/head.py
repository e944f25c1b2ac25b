"""The unembedding and the loss, in blocks of rows: memory never grows with vocabulary x tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sft.local.engine import linear
from sft.local.engine.lora import Run
from sft.local.engine.models import BaseModel

# Rows of logits at a time, and how many of those in float32. On a CPU so few that the former are
# reused from the heap and the latter stay in the cache.
BLOCK = {"cpu": 128, "cuda": 2048}
FEW = {"cpu": 4, "cuda": 2048}


def logprobs(base: BaseModel, normal: Tensor, targets: Tensor, runs: list[Run]) -> Tensor:
    """normal [N, hidden], targets [N] -> float32 logprobs of the targets [N]."""
    result = torch.empty(len(normal), dtype=torch.float32, device=base.device)
    for rows, part in _blocks(runs, BLOCK[base.device.type]):
        (logits,), _ = linear.forward(base.linears[-1], len(base.linears) - 1, normal[rows], [part])
        result[rows] = _chosen(logits, targets[rows])
    return result


def loss_backward(
    base: BaseModel, normal: Tensor, targets: Tensor, weights: Tensor, runs: list[Run]
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the targets with a weight: loss = sum of weight * -logprob.

    Args:
        normal: the last normalised hidden states [N, hidden].
        targets: int64 [N]. weights: float32 [N], of any sign.

    Returns:
        float32 logprobs [N] (0.0 at weight zero) and the gradient of `normal`. The
        gradients of the unembedding's LoRA are added to the runs'.
    """
    index = len(base.linears) - 1
    unembedding = base.linears[index]
    result = torch.zeros(len(normal), dtype=torch.float32, device=base.device)
    dnormal = torch.zeros_like(normal)
    none = [None] * index  # of the other linears
    for run in runs:
        trained = weights[run.rows].nonzero()[:, 0] + run.start
        # Summed over the blocks by itself: the run's gradient may hold that of earlier runs.
        total = None if run.gradient is None else run.gradient[index]
        own = None if total is None else total.zeros()
        for rows in trained.split(BLOCK[base.device.type]):
            part = [Run(0, len(rows), run.lora, run.scale, [*none, own])]
            x = normal[rows]
            (logits,), hidden = linear.forward(unembedding, index, x, part)
            result[rows], gradient = _cross_entropy(logits, targets[rows], weights[rows])
            dnormal[rows] = linear.backward(unembedding, index, x, hidden, [gradient], part)
        if total is not None and own is not None:
            total.add_(own)
    return result, dnormal


def logits_of(base: BaseModel, normal: Tensor, runs: list[Run]) -> Tensor:
    """normal [N, hidden] -> float32 logits [N, vocab]."""
    index = len(base.linears) - 1
    (logits,), _ = linear.forward(base.linears[index], index, normal, runs)
    return logits.float()


def _chosen(logits: Tensor, targets: Tensor) -> Tensor:
    """float32 logprobs of the targets [N] under the logits [N, vocab]."""
    parts = zip(_few(logits), _few(targets[:, None]), strict=True)
    return torch.cat([_exponentials(part.float(), chosen)[0] for part, chosen in parts])[:, 0]


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Logprobs of the targets, and the gradient of sum(weight * -logprob), put in `logits`."""
    targets, weights = targets[:, None], weights[:, None]
    result = []
    parts = zip(_few(logits), _few(targets), _few(weights), strict=True)
    for part, target, weight in parts:
        logprobs, exponentials, total = _exponentials(part.float(), target)
        # weight * (softmax - onehot); at the target from the logprob: there it may be near 1
        part.copy_(exponentials.mul_(weight / total))
        at_target = (weight * torch.expm1(logprobs)).to(part.dtype)
        part[torch.arange(len(part), device=part.device), target[:, 0]] = at_target[:, 0]
        result.append(logprobs)
    return torch.cat(result)[:, 0], logits


def _exponentials(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs of the targets [N, 1], and exp(logits - largest), in place, with its sum [N, 1]."""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    chosen = logits.gather(1, targets)
    total = logits.exp_().sum(dim=-1, keepdim=True)
    return chosen - total.log(), logits, total


def _few(rows: Tensor) -> tuple[Tensor, ...]:
    """So few rows at a time that their float32 logits stay in a core's cache."""
    return rows.split(FEW[rows.device.type])


def _blocks(runs: list[Run], size: int) -> Iterator[tuple[slice, Run]]:
    """At most `size` rows within one run, with the run as one of just these rows."""
    for run in runs:
        for start in range(run.start, run.end, size):
            end = min(start + size, run.end)
            yield slice(start, end), _within(run, 0, end - start)


def _within(run: Run, start: int, end: int) -> Run:
    return Run(start, end, run.lora, run.scale, run.gradient)
