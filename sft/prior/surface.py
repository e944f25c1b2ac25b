"""The shape of the loss over learning rate and rank: three numbers of a model say all of it.

Below the best learning rate the loss falls in a line with the logarithm of the rate; above it, it
rises ever more steeply, until training diverges. What a small rank costs grows with the rate: at a
low one all ranks do alike. With u = log10(lr) - log10 of the model's best rate,

    log NLL = slope * ((10^(steepness * u) - 1) / (steepness * ln 10) - u)
              + benefit * 10^(growth * u) * 2^(-saturation * log2(rank / 4))
              + a constant of the model

The first line has its minimum at u = 0; a smaller rank has its best rate a little lower ("nearly
independent of rank": Schulman et al. 2025, "LoRA Without Regret"). The *excess* of a cell is its
log NLL above the best cell's, capped once training as good as diverges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sft.prior.published import Cell

CAP = 0.10
"""Excess, log NLL: what is worse by more than a tenth, or diverged, looks the same."""
OFFSET = 1e-3
"""Excesses are compared by their square roots, near the best with this added (log NLL): what is
0.1% off is known to a hundredth of that, what is 5% off is not."""


@dataclass(frozen=True)
class Shape:
    """What all models share."""

    steepness: float = 2.0
    """Of the rise above the best rate, per decade."""
    growth: float = 1.0
    """Of what a small rank costs, with ten times the rate, as a power of ten."""
    saturation: float = 0.5
    """How fast a higher rank ceases to help, per doubling."""


SLOPE, RATE, BENEFIT = 0, 1, 2
"""A model's numbers: log of the slope (log NLL per decade), log10 of the best learning rate of a
high rank, log of what rank 4 costs there (log NLL)."""


def axes(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """[cells] log10 of the learning rates and [cells] log2 of the ranks."""
    rates, ranks = np.array(cells, float).T
    return np.log10(rates), np.log2(ranks)


def losses(numbers: np.ndarray, shape: Shape, rates: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Log NLL, up to a model's constant: [...] from [..., 3] numbers and [...] axes, which
    broadcast."""
    steep = shape.steepness * np.log(10)
    away = np.minimum(rates - numbers[..., RATE], 2.0)
    rise = (np.exp(steep * away) - 1) / steep - away
    lack = 2 ** (-shape.saturation * (ranks - 2)) * 10 ** (shape.growth * away)
    return np.exp(numbers[..., SLOPE]) * rise + np.exp(numbers[..., BENEFIT]) * lack


def compared(excess: np.ndarray) -> np.ndarray:
    """Excesses on the scale on which they are compared."""
    return np.sqrt(np.minimum(excess, CAP) + OFFSET)
