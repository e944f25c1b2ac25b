"""Durations and ages as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`seconds` as M:SS, or H:MM:SS from an hour on.

    >>> duration(5), duration(90), duration(4000)
    ('0:05', '1:30', '1:06:40')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def age(seconds: float) -> str:
    """`seconds` in its largest unit.

    >>> age(40), age(720), age(90_000)
    ('40s', '12m', '1d')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
