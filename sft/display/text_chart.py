"""A small chart of curves in plain characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 60, 12
SHARED = "*"
"""Where several curves meet."""


def chart(series: Mapping[str, Sequence[tuple[float, float]]], title: str) -> str:
    """The curves of `series` (letter -> points (x, y)), each drawn with its letter.

    Both axes carry their ends. Values that are not finite are left out.

    >>> print(chart({"A": [(0, 2.0), (10, 1.0)]}, "loss"))  # doctest: +ELLIPSIS
    loss
    ...
    """
    points = [(x, y) for curve in series.values() for x, y in curve if math.isfinite(y)]
    if not points:
        return f"{title}: no finite values"
    (left, right), (low, high) = (
        (min(values), max(values)) for values in zip(*points, strict=True)
    )
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for letter, curve in series.items():
        finite = [(x, y) for x, y in curve if math.isfinite(y)]
        for x, y in _filled(finite, (right - left) / WIDTH or 1.0):
            column = round((x - left) / ((right - left) or 1.0) * (WIDTH - 1))
            row = round((high - y) / ((high - low) or 1.0) * (HEIGHT - 1))
            there = grid[row][column]
            grid[row][column] = letter if there in (" ", letter) else SHARED
    labels = [""] * HEIGHT
    labels[0], labels[-1] = f"{high:.4g}", f"{low:.4g}"
    margin = max(map(len, labels))
    lines = [title]
    lines += [f"{label:>{margin}} |{''.join(row)}" for label, row in zip(labels, grid, strict=True)]
    ends = f"{left:g}".ljust(WIDTH - len(f"{right:g}")) + f"{right:g}"
    return "\n".join([*lines, f"{'':>{margin}} +{'-' * WIDTH}", f"{'':>{margin}}  {ends}"])


def _filled(points: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """The points and, on straight lines between them, one every `gap` of x."""
    if not points:
        return []
    found = [points[0]]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        count = max(1, math.ceil((x1 - x0) / gap))
        found += [
            (x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(1, count + 1)
        ]
    return found
