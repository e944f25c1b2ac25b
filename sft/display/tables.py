"""Plain tables for a terminal or a file."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """`rows` as lines whose columns stand below each other, two spaces apart.

    `right`: each cell at the right edge of its column, as numbers are.

    >>> aligned([["lr", "eval/nll"], ["3e-4", "1.25"]])
    ['lr    eval/nll', '3e-4  1.25']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.rjust if right else str.ljust
    return [
        "  ".join(pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
