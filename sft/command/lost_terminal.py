"""Standard output and error that may go away: a closed terminal, a pipe that nobody reads.

What is trained is worth more than what is shown of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GONE = (errno.EIO, errno.EPIPE)


@contextmanager
def survived() -> Iterator[None]:
    """While inside, what is printed to where nobody is any more goes nowhere."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Surviving(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


class _Surviving:
    """A text stream whose file is exchanged for the null device once it is gone."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            if error.errno not in GONE:
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            with contextlib.suppress(OSError):
                self._stream.flush()  # what the buffer still holds
