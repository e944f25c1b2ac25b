"""Plain tables for a terminal or a file."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """`rows` as lines whose columns stand below each other, two spaces apart.

    >>> aligned([["lr", "eval/nll"], ["3e-4", "1.25"]])
    ['lr    eval/nll', '3e-4  1.25']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
