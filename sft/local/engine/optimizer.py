"""AdamW over an adapter's one vector of weights."""

from __future__ import annotations

import torch

from sft.local.engine.lora import Adapter
from sft.local.engine_api import AdamStep, EngineError


def check(step: AdamStep) -> None:
    """Refuse values that no optimizer step can have.

    Raises `EngineError`: the name of the value, what it is and what was expected.
    """
    for name, value, bound, good in (
        ("learning_rate", step.learning_rate, "0 or more", step.learning_rate >= 0),
        ("beta1", step.beta1, "0 <= beta1 < 1", 0 <= step.beta1 < 1),
        ("beta2", step.beta2, "0 <= beta2 < 1", 0 <= step.beta2 < 1),
        ("eps", step.eps, "more than 0", step.eps > 0),
        ("weight_decay", step.weight_decay, "0 or more", step.weight_decay >= 0),
        ("grad_clip_norm", step.grad_clip_norm, "0 (off) or more", step.grad_clip_norm >= 0),
    ):
        if not good or value == float("inf"):
            raise EngineError(f"{name} of the optimizer step is {value}: expected {bound}.")


def adamw(adapter: Adapter, step: AdamStep) -> dict[str, float]:
    """One AdamW update with bias correction and decoupled weight decay; clears the gradient.

    Loshchilov & Hutter 2019 (https://arxiv.org/abs/1711.05101), as `torch.optim.AdamW` computes
    it. The gradient is first scaled down to a global norm of `grad_clip_norm` if that is not 0.

    Returns:
        Metrics: the gradient's norm before clipping.

    Raises `EngineError` if there is no gradient, or it is not finite. Then a gradient that is not
    finite is dropped, and nothing else is changed.
    """
    check(step)
    gradient = adapter.gradient
    if gradient is None:
        raise EngineError(
            "There is no gradient to step with: call forward_backward before optim_step."
        )
    norm = float(torch.linalg.vector_norm(gradient))
    if not torch.isfinite(torch.tensor(norm)):
        adapter.gradient = None
        raise EngineError(
            "The gradient is not finite, so the optimizer step was not taken: lower the learning "
            "rate or look for extreme loss weights."
        )
    if 0 < step.grad_clip_norm < norm:
        gradient.mul_(step.grad_clip_norm / norm)
    if adapter.exp_avg is None or adapter.exp_avg_sq is None:
        adapter.exp_avg = torch.zeros_like(adapter.weights)
        adapter.exp_avg_sq = torch.zeros_like(adapter.weights)
    adapter.step += 1
    torch._fused_adamw_(
        [adapter.weights], [gradient], [adapter.exp_avg], [adapter.exp_avg_sq], [],
        [torch.tensor(float(adapter.step), device=adapter.weights.device)],
        lr=step.learning_rate, beta1=step.beta1, beta2=step.beta2,
        weight_decay=step.weight_decay, eps=step.eps, amsgrad=False, maximize=False,
    )  # fmt: skip
    adapter.gradient = None
    return {"grad_norm": norm}
