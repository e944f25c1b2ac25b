"""How the variation between the trials of a full grid splits among parameters: exact, with
interactions.

A grid is a full factorial design. With y(x) the value of the combination x, the effect of a set S
of parameters is what their values say beyond all smaller sets (the analysis of variance of a
balanced design: Fisher, 1925; functional ANOVA with equal weights: Hooker, 2007):

    f_S(x_S) = mean of y over the parameters outside S - sum of f_T(x_T) over T inside S, T != S

and its share is sum over x of f_S(x_S)^2 / sum over x of (y(x) - mean y)^2. The shares sum to 1.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shares:
    """The share of each set of parameters, mains first; `noise`: what chance alone would give."""

    shares: dict[tuple[str, ...], float]
    noise: dict[tuple[str, ...], float] | None  # None without repeats
    cells: int


def of_grid(
    names: Sequence[str],
    cells: Mapping[tuple, float],
    repeats: Mapping[tuple, Sequence[float]] | None = None,
) -> Shares | None:
    """The shares of a full grid; None if combinations are missing or nothing varies.

    Args:
        names: the parameters that vary.
        cells: each combination (a value a name) -> its value.
        repeats: each combination -> its repeats, seed by seed in the same order. What neither the
            combination nor the seed explains is the noise.
    """
    levels = [list(dict.fromkeys(cell[i] for cell in cells)) for i in range(len(names))]
    if len(cells) != np.prod([len(level) for level in levels]):
        return None
    grid = np.empty([len(level) for level in levels])
    for cell, value in cells.items():
        grid[tuple(level.index(x) for level, x in zip(levels, cell, strict=True))] = value
    total = float(((grid - grid.mean()) ** 2).sum())
    if not total:
        return None
    effects: dict[tuple[int, ...], np.ndarray] = {(): np.asarray(grid.mean())}
    shares, freedom = {}, {}
    axes = range(len(names))
    for size in range(1, len(names) + 1):
        for chosen in itertools.combinations(axes, size):
            others = tuple(axis for axis in axes if axis not in chosen)
            effect = grid.mean(axis=others, keepdims=True)
            for smaller in (s for s in effects if set(s) < set(chosen)):
                effect = effect - effects[smaller]
            effects[chosen] = effect
            key = tuple(names[axis] for axis in chosen)
            spread = np.broadcast_to(effect, grid.shape)
            shares[key] = float((spread**2).sum()) / total
            freedom[key] = int(np.prod([grid.shape[axis] - 1 for axis in chosen]))
    variance = _variance_of_means(repeats) if repeats else None
    noise = None
    if variance is not None:
        noise = {key: freedom[key] * variance / total for key in shares}
    return Shares(shares, noise, len(cells))


def _variance_of_means(repeats: Mapping[tuple, Sequence[float]]) -> float | None:
    """The variance by chance of a mean over repeats: what combination and seed do not explain."""
    counts = {len(values) for values in repeats.values()}
    if len(counts) != 1 or min(counts) < 2:
        return None
    count = counts.pop()
    table = np.array(list(repeats.values()))
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    return float((rest**2).sum()) / ((len(table) - 1) * (count - 1)) / count


def cells_of(names: Sequence[str], trials: Sequence[tuple[Mapping, float]]) -> dict[tuple, float]:
    """Each combination of `names` -> the mean of the trials that have it."""
    found: dict[tuple, list[float]] = {}
    for params, value in trials:
        found.setdefault(tuple(params.get(name) for name in names), []).append(value)
    return {cell: statistics.fmean(values) for cell, values in found.items()}
