"""Frozen projections with an adapter on top, forward and backward.

y_j = x W_j^T + scale (x A_j^T) B_j^T for the modules j that read the same x. The frozen weights
take no gradient; A's and B's are added to the run's gradient views. Every LoRA product is made
within one run, so that it is the same whatever other runs are in the pack. Where the runs of a pack
are alike (several adapters of one rank, the same number of rows each; on a GPU, where packs are
joined), their products are batched: a few kernels instead of a few for each run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sft.local import stacked
from sft.local.lora import LoraViews, Run
from sft.local.models import Linear

# For the backward, scale * x A^T: per run [rows, modules * rank], or of alike runs stacked.
Hidden = list[Tensor | None] | Tensor


def forward(linear: Linear, index: int, x: Tensor, runs: list[Run]) -> tuple[list[Tensor], Hidden]:
    """x [N, inputs] -> one y [N, outputs] per module.

    `index` is the linear's place in the base model.
    """
    outputs = linear.products.forward(x)
    if stacked.alike(index, runs):
        return outputs, stacked.forward(index, x, outputs, runs)
    hidden: list[Tensor | None] = []
    for run in runs:
        lora = _of(run.lora, index)
        if lora is None:
            hidden.append(None)
            continue
        z = (x[run.rows] @ lora.a.T).mul_(run.scale)
        hidden.append(z)
        for y, z_part, b in zip(outputs, _parts(z, linear), lora.b, strict=True):
            y[run.rows].addmm_(z_part, b.T)
    return outputs, hidden


def backward(
    linear: Linear, index: int, x: Tensor, hidden: Hidden, dys: list[Tensor], runs: list[Run]
) -> Tensor:
    """Gradients dy [N, outputs] of each module -> dx [N, inputs]; adds to the LoRA gradients."""
    dx = linear.products.backward(dys)
    if isinstance(hidden, Tensor):
        stacked.backward(index, x, hidden, dys, dx, runs)
        return dx
    for run, z in zip(runs, hidden, strict=True):
        lora, gradient = _of(run.lora, index), _of(run.gradient, index)
        if lora is None or z is None:
            continue
        dz = torch.empty_like(z)
        for module, (z_part, dz_part) in enumerate(
            zip(_parts(z, linear), _parts(dz, linear), strict=True)
        ):
            dy = dys[module][run.rows]
            torch.mm(dy, lora.b[module], out=dz_part)
            if gradient is not None:
                gradient.b[module].add_(dy.T @ z_part)
        dz.mul_(run.scale)
        if gradient is not None:
            gradient.a.add_(dz.T @ x[run.rows])
        dx[run.rows].addmm_(dz, lora.a)
    return dx


def _of(views: list[LoraViews | None] | None, index: int) -> LoraViews | None:
    return None if views is None else views[index]


def _parts(z: Tensor, linear: Linear) -> tuple[Tensor, ...]:
    return z.chunk(len(linear.modules), dim=-1)
