"""Frozen projections with an adapter on top, forward and backward.

y_j = x W_j^T + scale (x A_j^T) B_j^T for the modules j that read the same x. The frozen weights
take no gradient; A's and B's are added to the run's gradient views. Every LoRA product is made
within one adapter, and every gradient within one run. So it does not depend on the other runs of
the pack. If the runs of a pack on a GPU are alike (several adapters of one rank, the same number of
rows each), their products are batched: a few kernels instead of a few for each run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby

import torch
from torch import Tensor

from sft.local.engine import stacked
from sft.local.engine.lora import Run, views_of
from sft.local.engine.models import Linear
from sft.local.engine.workers import one_thread

FEW = 32  # rows whose LoRA products are so small that sharing them out takes longer than they do
# For the backward, scale * x A^T: per span [rows, modules * rank], or of alike runs stacked.
Hidden = list[Tensor | None] | Tensor


def forward(linear: Linear, index: int, x: Tensor, runs: list[Run]) -> tuple[list[Tensor], Hidden]:
    """x [N, inputs] -> one y [N, outputs] per module.

    `index` is the linear's place in the base model.
    """
    outputs = linear.products.forward(x)
    if stacked.alike(index, runs, x.device):
        return outputs, stacked.forward(index, x, outputs, runs)
    hidden: list[Tensor | None] = []
    with one_thread() if len(x) <= FEW else nullcontext():
        for rows, same in _spans(runs, index):
            lora = views_of(same[0].lora, index)
            if lora is None:
                hidden.append(None)
                continue
            z = (x[rows] @ lora.a.T).mul_(same[0].scale)
            hidden.append(z)
            for y, z_part, b in zip(outputs, _parts(z, linear), lora.b, strict=True):
                y[rows].addmm_(z_part, b.T)
    return outputs, hidden


def backward(
    linear: Linear, index: int, x: Tensor, hidden: Hidden, dys: list[Tensor], runs: list[Run]
) -> Tensor:
    """Gradients dy [N, outputs] of each module -> dx [N, inputs]; adds to the LoRA gradients."""
    dx = linear.products.backward(dys)
    if isinstance(hidden, Tensor):
        stacked.backward(index, x, hidden, dys, dx, runs)
        return dx
    for (rows, same), z in zip(_spans(runs, index), hidden, strict=True):
        lora = views_of(same[0].lora, index)
        if lora is None or z is None:
            continue
        dz = torch.empty_like(z)
        for module, dz_part in enumerate(_parts(dz, linear)):
            torch.mm(dys[module][rows], lora.b[module], out=dz_part)
        dz.mul_(same[0].scale)
        dx[rows].addmm_(dz, lora.a)
        for run in same:
            gradient = views_of(run.gradient, index)
            if gradient is None:
                continue
            own = slice(run.start - rows.start, run.end - rows.start)  # of z and dz
            for module, z_part in enumerate(_parts(z[own], linear)):
                gradient.b[module].add_(dys[module][run.rows].T @ z_part)
            gradient.a.add_(dz[own].T @ x[run.rows])
    return dx


def _spans(runs: list[Run], index: int) -> Iterator[tuple[slice, list[Run]]]:
    """Consecutive runs through the very same weights: most of their products are made at once.

    Not those of rank 1: a product with a vector depends on the number of rows.
    """

    def through(run: Run) -> tuple:
        lora = views_of(run.lora, index)
        alone = lora is not None and lora.b[0].shape[1] == 1
        return id(run.lora), id(run.scale), run.start if alone else None

    for _, group in groupby(runs, through):
        same = list(group)
        yield slice(same[0].start, same[-1].end), same


def _parts(z: Tensor, linear: Linear) -> tuple[Tensor, ...]:
    return z.chunk(len(linear.modules), dim=-1)
