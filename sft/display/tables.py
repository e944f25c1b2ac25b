"""Plain tables for a terminal or a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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


NAMES = 13
"""Columns of a run's banner that hold the names of its rows."""


def laid_out(words: Iterable[str], width: int) -> list[str]:
    """The lines of a row of the banner, `width` columns wide; the first goes behind its name.

    No word is broken: a path that is cut in two can be neither read nor copied. One that is too
    long for the column of texts has a line of its own, which begins further left.

    >>> laid_out(["local,", "outputs/a-name-that-is-long"], 32)
    ['local,', '  outputs/a-name-that-is-long']
    """
    lines, line = [], " " * NAMES
    for word in words:
        gap = "" if line.isspace() else " "
        if len(line) + len(gap) + len(word) <= width:
            line += gap + word
            continue
        lines.append(line)
        line = " " * (NAMES if NAMES + len(word) <= width else 2) + word
    lines.append(line)
    return [lines[0][NAMES:], *lines[1:]]
