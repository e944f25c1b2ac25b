"""The signals that ask a run or a sweep to end, and which of them cut its end short.

    signals = Signals()
    with signals.heeded():
        asyncio.run(main())     # in which: with signals.told(stop, end): …

The first signal asks for an orderly end, with a checkpoint. A second one of another kind changes
nothing, for schedulers send USR1 and TERM within seconds. One that comes again ends the process at
once, unless it comes again by itself: `timeout` sends TERM to its child and again to the child's
group; a closed terminal brings a HUP from the shell and one from the kernel; XCPU comes every
second from the soft limit of processor time to the hard one.

What was ignored when the process began (`nohup`, a background job of a script) stays ignored, and
what somebody else handles (a launcher) stays theirs. QUIT is left to end a process on the spot.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NUMBERS = (
    signal.SIGINT,  # Ctrl-C
    signal.SIGTERM,  # kill, docker stop, systemd, Slurm's time limit
    signal.SIGHUP,  # the terminal is gone
    signal.SIGXCPU,  # the soft limit of processor time, and what some queues send before theirs
    signal.SIGUSR1,  # Slurm's and Grid Engine's notice before a time limit
    signal.SIGUSR2,
)
AGAIN = "the same signal again to stop at once"
NEVER_AGAIN = (signal.SIGHUP, signal.SIGXCPU)
"""Come several times without anybody's wish to have it end sooner."""
ECHO_SECONDS = 1.0
"""So soon after the first the same signal is no second request; only a person's Ctrl-C is."""


class Signals:
    """What this process was asked by signals. Does nothing outside of the main thread."""

    def __init__(self) -> None:
        self.first: int | None = None
        """The signal that asked for the end."""
        self._came: dict[int, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[str], None] | None = None
        self._end: Callable[[str], None] | None = None
        self._is_over = False

    @property
    def exit_code(self) -> int:
        """As a shell has it of a process that a signal ended."""
        return 128 + (self.first or signal.SIGINT)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While inside, signals come here. Before `told` they raise `KeyboardInterrupt`."""
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                handler = signal.getsignal(number)
                if handler in (signal.SIG_DFL, signal.default_int_handler):
                    before[number] = handler
                    signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                if self.first is not None and number in NEVER_AGAIN:
                    handler = signal.SIG_IGN  # or the process would die of it on its last steps
                signal.signal(number, handler)

    @contextmanager
    def told(self, stop: Callable[[str], None], end: Callable[[str], None]) -> Iterator[None]:
        """While inside, the running event loop calls `stop(NAME)` at the first signal, and
        `end(NAME)` at one that comes again. May be nested."""
        before = self._loop, self._stop, self._end
        self._loop, self._stop, self._end = asyncio.get_running_loop(), stop, end
        try:
            yield
        finally:
            self._loop, self._stop, self._end = before

    def over(self) -> None:
        """The work is done and only told to others: just Ctrl-C cuts that short."""
        self._is_over = True

    def _receive(self, number: int, frame: object) -> None:
        """Between any two instructions of the main thread, so all else is left to the loop."""
        again = self._is_again(number)
        is_first, self.first = self.first is None, self.first or number
        if not (is_first or again):
            return
        if self._is_over:
            if again or number == signal.SIGINT:
                raise KeyboardInterrupt
        elif self._loop is None:
            raise KeyboardInterrupt
        else:
            self._loop.call_soon_threadsafe(self._tell, number, is_first)

    def _is_again(self, number: int) -> bool:
        now = time.monotonic()
        came = self._came.setdefault(number, now)
        if came == now or number in NEVER_AGAIN:
            return False
        return number == signal.SIGINT or now - came > ECHO_SECONDS

    def _tell(self, number: int, is_first: bool) -> None:
        tell = self._stop if is_first else self._end
        if tell is not None:
            tell(signal.Signals(number).name)
