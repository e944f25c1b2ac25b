"""The signals that a terminal, a scheduler or a container sends to end a process."""

from __future__ import annotations

import signal

NUMBERS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGXCPU,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def ignore() -> None:
    """For a process that ends by a rule of its own."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def heeded() -> list[int]:
    """Those that were not ignored when the process began, as `nohup` has it."""
    return [number for number in NUMBERS if signal.getsignal(number) != signal.SIG_IGN]
