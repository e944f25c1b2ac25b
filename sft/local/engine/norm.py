"""RMS normalisation (Zhang & Sennrich 2019) with a frozen weight, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x [..., size] -> its normalised form and 1 / rms [..., 1] in float32 for the backward."""
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))
    return (wide * inverse).to(x.dtype) * weight, inverse


def again(x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """The normalised form once more, bit for bit, and x / rms in float32 for `backward`."""
    normal = x.float() * inverse
    return normal.to(x.dtype) * weight, normal


def backward(dy: Tensor, normal: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the input: inverse * (g - n mean(g n)) with g = dy * weight, n = x * inverse."""
    gradient = (dy * weight).float()
    mean = (gradient * normal).mean(-1, keepdim=True)
    return gradient.addcmul_(normal, mean, value=-1).mul_(inverse).to(dy.dtype)
