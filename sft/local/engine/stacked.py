"""LoRA products of several alike runs at once: batched matrix products over the runs.

What `linear` does run by run, for runs that lie behind one another with the same number of rows and
adapters of one rank. R is the number of runs, T the rows of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sft.local.engine.lora import LoraViews, Run, views_of

DEVICES = ("cuda",)  # on a CPU batched products round otherwise than those of each run


def alike(index: int, runs: list[Run], device: torch.device) -> bool:
    """Whether the runs' products on linear `index` can be batched.

    Only on a GPU: there it is faster, and need not be the same to the bit as run by run. Not if
    runs add to one gradient: those are of one adapter, whose products are made at once anyway.
    """
    if len(runs) < 2 or device.type not in DEVICES:
        return False
    gradients = [id(run.gradient) for run in runs if run.gradient is not None]
    if len(set(gradients)) < len(gradients):
        return False
    rows = runs[0].end - runs[0].start
    shapes = set()
    for place, run in enumerate(runs):
        lora = views_of(run.lora, index)
        if lora is None or (run.start, run.end) != (place * rows, (place + 1) * rows):
            return False
        shapes.add(lora.a.shape)
    return len(shapes) == 1


def forward(index: int, x: Tensor, outputs: list[Tensor], runs: list[Run]) -> Tensor:
    """x [R * T, inputs]; adds to each module's output [R * T, outputs].

    Returns:
        scale * x A^T [R, T, modules * rank] for the backward. One rank, so one scale.
    """
    a, bs = _stack(index, runs)
    z = (_split(x, runs) @ a.mT).mul_(runs[0].scale)
    for y, b, part in zip(outputs, bs, z.chunk(len(bs), dim=-1), strict=True):
        _split(y, runs).baddbmm_(part, b.mT)
    return z


def backward(
    index: int, x: Tensor, z: Tensor, dys: list[Tensor], dx: Tensor, runs: list[Run]
) -> None:
    """Adds to dx [R * T, inputs] and to the runs' gradients."""
    a, bs = _stack(index, runs)
    dz = torch.empty_like(z)
    gradients = _present([views_of(run.gradient, index) for run in runs])
    parts = zip(dys, bs, z.chunk(len(bs), dim=-1), dz.chunk(len(bs), dim=-1), strict=True)
    for module, (dy, b, z_part, dz_part) in enumerate(parts):
        dy = _split(dy, runs)
        dz_part.copy_(dy @ b)
        _add([gradient.b[module] for gradient in gradients], dy.mT @ z_part)
    dz.mul_(runs[0].scale)
    _add([gradient.a for gradient in gradients], dz.mT @ _split(x, runs))
    _split(dx, runs).baddbmm_(dz, a)


def _stack(index: int, runs: list[Run]) -> tuple[Tensor, list[Tensor]]:
    views = _present([views_of(run.lora, index) for run in runs])
    modules = range(len(views[0].b))
    return (
        torch.stack([view.a for view in views]),
        [torch.stack([view.b[module] for view in views]) for module in modules],
    )


def _present(views: list[LoraViews | None]) -> list[LoraViews]:
    return [view for view in views if view is not None]


def _split(x: Tensor, runs: list[Run]) -> Tensor:
    return x.view(len(runs), -1, x.shape[-1])


def _add(targets: list[Tensor], values: Tensor) -> None:
    if targets:
        torch._foreach_add_(targets, list(values.to(targets[0].dtype).unbind()))
