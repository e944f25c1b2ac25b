"""The unembedding and the loss, in blocks of rows: memory never grows with vocabulary x tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sft.local.engine import linear
from sft.local.engine.aims import Aim
from sft.local.engine.lora import Run
from sft.local.engine.models import BaseModel

# Rows of logits at a time, and how many of those in float32. On a CPU so few that the former are
# reused from the heap and the latter stay in the cache.
BLOCK = {"cpu": 128, "cuda": 2048}
FEW = {"cpu": 4, "cuda": 2048}


def logprobs(
    base: BaseModel, normal: Tensor, targets: list[Tensor], runs: list[Run]
) -> list[Tensor]:
    """normal [N, hidden], targets [n, K] of each run's n rows -> their float32 logprobs [n, K]."""
    index, size = len(base.linears) - 1, BLOCK[base.device.type]
    results = []
    for run, wanted in zip(runs, targets, strict=True):
        found = []
        for x, block in zip(normal[run.rows].split(size), wanted.split(size), strict=True):
            part = Run(0, len(block), run.lora, run.scale)
            (logits,), _ = linear.forward(base.linears[index], index, x, [part])
            found.append(_chosen(logits, block))
        results.append(torch.cat(found))
    return results


def loss_backward(
    base: BaseModel, normal: Tensor, aims: list[Aim], runs: list[Run]
) -> tuple[list[Tensor], Tensor]:
    """Each run's loss and its gradient.

    Args:
        normal: the last normalised hidden states [N, hidden].
        aims: what the rows of each run are to say.

    Returns:
        The float32 logprobs [n, K] of each run's targets (0.0 in rows that its loss does not need)
        and the gradient of `normal`. The gradients of the unembedding's LoRA are added to the
        runs'.
    """
    index = len(base.linears) - 1
    unembedding = base.linears[index]
    results = []
    dnormal = torch.zeros_like(normal)
    none = [None] * index  # of the other linears
    for run, aim in zip(runs, aims, strict=True):
        result = torch.zeros_like(aim.factors)
        # Summed over the blocks by itself: the run's gradient may hold that of earlier runs.
        total = None if run.gradient is None else run.gradient[index]
        own = None if total is None else total.zeros()
        for rows in aim.rows().split(BLOCK[base.device.type]):
            part = [Run(0, len(rows), run.lora, run.scale, [*none, own])]
            x = normal[rows + run.start]
            (logits,), hidden = linear.forward(unembedding, index, x, part)
            result[rows], gradient = _gradient(logits, aim, rows)
            dnormal[rows + run.start] = linear.backward(
                unembedding, index, x, hidden, [gradient], part
            )
        if total is not None and own is not None:
            total.add_(own)
        results.append(result)
    return results, dnormal


def logits_of(base: BaseModel, normal: Tensor, runs: list[Run]) -> Tensor:
    """normal [N, hidden] -> float32 logits [N, vocab]."""
    index = len(base.linears) - 1
    (logits,), _ = linear.forward(base.linears[index], index, normal, runs)
    return logits.float()


def _chosen(logits: Tensor, targets: Tensor) -> Tensor:
    """float32 logprobs of the targets [n, K] under the logits [n, vocab]."""
    parts = zip(_few(logits), _few(targets), strict=True)
    return torch.cat([_exponentials(part.float(), chosen)[0] for part, chosen in parts])


def _gradient(logits: Tensor, aim: Aim, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Logprobs of the targets in these rows of `aim`, and the loss's gradient, put in `logits`."""
    result = []
    given = (aim.targets, aim.factors, aim.sampled)
    parts = zip(_few(logits), *(_few(values[rows]) for values in given), strict=True)
    for part, targets, factors, sampled in parts:
        logprobs, exponentials, total = _exponentials(part.float(), targets)
        weights = aim.loss.pull(logprobs, factors, sampled)
        if targets.shape[1] == 1:
            # weight * (softmax - onehot); at the target from the logprob: there it may be near 1
            part.copy_(exponentials.mul_(weights / total))
            at_target = (weights * torch.expm1(logprobs)).to(part.dtype)
            part[torch.arange(len(part), device=part.device), targets[:, 0]] = at_target[:, 0]
        else:
            exponentials.mul_(weights.sum(dim=1, keepdim=True) / total)
            part.copy_(exponentials.scatter_add_(1, targets, -weights))
        result.append(logprobs)
    return torch.cat(result), logits


def _exponentials(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs of the targets [n, K], and exp(logits - largest), in place, with its sum [n, 1]."""
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    chosen = logits.gather(1, targets)
    total = logits.exp_().sum(dim=-1, keepdim=True)
    return chosen - total.log(), logits, total


def _few(rows: Tensor) -> tuple[Tensor, ...]:
    """So few rows at a time that their float32 logits stay in a core's cache."""
    return rows.split(FEW[rows.device.type])
