"""A frozen projection with an adapter on top, forward and backward.

y = x W^T + scale (x A^T) B^T. The frozen weight takes no gradient; A's and B's are added to the
run's gradient views. Every LoRA product is made within one run, so that it is the same whatever
other runs are in the pack.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sft.local.lora import Run
from sft.local.models import Linear

Hidden = list[Tensor | None]  # per run: scale * x A^T [rows, modules * rank], for the backward


def forward(linear: Linear, index: int, x: Tensor, runs: list[Run]) -> tuple[Tensor, Hidden]:
    """x [N, inputs] -> y [N, sum of outputs]; `index` is the linear's place in the base model."""
    y = functional.linear(x, linear.weight, linear.bias)
    hidden: Hidden = []
    for run in runs:
        lora = run.lora[index] if run.lora is not None else None
        if lora is None:
            hidden.append(None)
            continue
        z = (x[run.rows] @ lora.a.T).mul_(run.scale)
        hidden.append(z)
        for columns, z_part, b in zip(linear.slices(), _parts(z, linear), lora.b, strict=True):
            y[run.rows, columns] += z_part @ b.T
    return y, hidden


def backward(
    linear: Linear, index: int, x: Tensor, hidden: Hidden, dy: Tensor, runs: list[Run]
) -> Tensor:
    """Gradient dy [N, sum of outputs] -> dx [N, inputs]; adds to the runs' LoRA gradients."""
    dx = dy @ linear.weight
    for run, z in zip(runs, hidden, strict=True):
        lora = run.lora[index] if run.lora is not None else None
        if lora is None or z is None:
            continue
        gradient = run.gradient[index] if run.gradient is not None else None
        dz = torch.empty_like(z)
        parts = zip(
            linear.slices(), _parts(z, linear), _parts(dz, linear), range(len(lora.b)), strict=True
        )
        for columns, z_part, dz_part, module in parts:
            dy_part = dy[run.rows, columns]
            dz_part.copy_(dy_part @ lora.b[module])
            if gradient is not None:
                gradient.b[module].add_(dy_part.T @ z_part)
        dz.mul_(run.scale)
        if gradient is not None:
            gradient.a.add_(dz.T @ x[run.rows])
        dx[run.rows] += dz @ lora.a
    return dx


def _parts(z: Tensor, linear: Linear) -> tuple[Tensor, ...]:
    return z.chunk(len(linear.modules), dim=-1)
