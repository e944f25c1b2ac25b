"""A command on a terminal of a test's own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS = 180
"""After which a command under test is given up."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Shown:
    """What a command wrote to its terminal, and how it ended."""

    code: int
    raw: str
    stdout: str
    """Of a command whose standard output was no terminal."""

    @property
    def text(self) -> str:
        """Without colours and movements of the cursor."""
        return CONTROL.sub("", self.raw).replace("\r", "")


def on_terminal(
    *command: str,
    cwd: Path,
    columns: int = 80,
    is_stdout: bool = True,
    interrupt_at: Callable[[str], bool] = lambda text: False,
    **environment: str,
) -> Shown:
    """Run `command` on a terminal `columns` wide. Ctrl-C is pressed once `interrupt_at` is true of
    all that was written so far. Without `is_stdout` standard output is a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs if is_stdout else subprocess.PIPE,
        stderr=theirs,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    raw, pressed, deadline = b"", False, time.monotonic() + SECONDS
    while True:
        assert time.monotonic() < deadline, raw
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            raw += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not pressed and interrupt_at(raw.decode(errors="replace")):
            pressed = True
            os.write(ours, b"\x03")
    output = process.stdout.read().decode() if process.stdout else ""
    os.close(ours)
    return Shown(process.wait(SECONDS), raw.decode(errors="replace"), output)


def _own_terminal() -> None:
    """Make standard input the controlling terminal: Ctrl-C is for its processes."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
