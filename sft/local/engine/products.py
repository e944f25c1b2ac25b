"""Products with the frozen weights of a `Linear`: forward, and backward to the input's gradient.

Weights are [outputs, inputs], one for each module that reads the same input. Before it multiplies,
a library brings a weight into an order of its own, for every product anew. That takes as long as
the product itself if x has a few rows, and a tenth of it if x has a few hundred. `Reordered` has it
done once, for each direction. It wants instructions for bfloat16 that some processors lack: there
`Widened` does without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

MOST_BYTES = 4 << 30  # of reordered weights of one model, in both directions


class Products(Protocol):
    def forward(self, x: Tensor) -> list[Tensor]:
        """x [N, inputs] -> one y [N, outputs] of each module."""
        ...

    def backward(self, dys: list[Tensor]) -> Tensor:
        """The gradient of each y -> that of x [N, inputs]."""
        ...


@dataclass(frozen=True)
class Plain:
    """As torch has them."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    def forward(self, x: Tensor) -> list[Tensor]:
        pairs = zip(self.weights, self.biases, strict=True)
        return [functional.linear(x, weight, bias) for weight, bias in pairs]

    def backward(self, dys: list[Tensor]) -> Tensor:
        dx = dys[0] @ self.weights[0]
        for dy, weight in zip(dys[1:], self.weights[1:], strict=True):
            dx.addmm_(dy, weight)
        return dx


@dataclass(frozen=True)
class Widened:
    """bfloat16 weights in float32, one linear's at a time: a processor without instructions for
    bfloat16 takes 4 (forward) to 30 times (backward) as long for the products as torch has them."""

    plain: Plain

    def forward(self, x: Tensor) -> list[Tensor]:
        return [y.to(x.dtype) for y in self._wide().forward(x.float())]

    def backward(self, dys: list[Tensor]) -> Tensor:
        return self._wide().backward([dy.float() for dy in dys]).to(dys[0].dtype)

    def _wide(self) -> Plain:
        weights = tuple(weight.float() for weight in self.plain.weights)
        biases = tuple(None if bias is None else bias.float() for bias in self.plain.biases)
        return Plain(weights, biases)


@dataclass(frozen=True)
class Reordered:
    """Reordered for oneDNN, and once more for the backward; opaque tensors, of no other use.

    The forward's are one, all modules' outputs below one another: one product instead of several.
    """

    weight: Tensor
    bias: Tensor | None
    outputs: tuple[int, ...]
    transposed: tuple[Tensor, ...]

    @staticmethod
    def of(plain: Plain) -> Reordered:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        some_rows = 8  # the order is the same for any number of them
        biases = [bias for bias in plain.biases if bias is not None]
        with torch.no_grad():
            return Reordered(
                reorder(torch.cat(plain.weights), some_rows),
                torch.cat(biases) if biases else None,
                tuple(len(weight) for weight in plain.weights),
                tuple(reorder(weight.T.contiguous(), some_rows) for weight in plain.weights),
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        multiply = torch.ops.mkldnn._linear_pointwise
        y = multiply(x, self.weight, self.bias, "none", [], "")
        return list(y.split(self.outputs, dim=1))

    def backward(self, dys: list[Tensor]) -> Tensor:
        multiply = torch.ops.mkldnn._linear_pointwise
        dx = multiply(dys[0], self.transposed[0], None, "none", [], "")
        for dy, weight in zip(dys[1:], self.transposed[1:], strict=True):
            dx = multiply.binary(dy, dx, weight, None, "add")
        return dx


@cache
def reorders(dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether oneDNN reorders weights of `dtype` on this processor and multiplies with them.

    It is tried: some builds of torch lack it, and for bfloat16 it asks for instructions that some
    processors lack.
    """
    x = torch.eye(16, dtype=dtype)
    try:
        products = Reordered.of(Plain((x, x), (None, None)))
        results = [*products.forward(x), products.backward([x, x])]
    except (AttributeError, RuntimeError):  # not in this build; refused on this processor
        return False
    return all(torch.equal(*pair) for pair in zip(results, (x, x, 2 * x), strict=True))


def way(device: torch.device, dtype: torch.dtype, parameters: int) -> Callable[[Plain], Products]:
    """What makes the products with the weights of a model of so many parameters in all."""
    if device.type == "cpu":
        if not reorders(dtype):
            return Widened if dtype == torch.bfloat16 else lambda plain: plain
        if 2 * parameters * dtype.itemsize <= MOST_BYTES:
            return Reordered.of
    return lambda plain: plain
