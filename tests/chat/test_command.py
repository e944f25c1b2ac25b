"""`sft.chat` as a user has it: from a pipe, and at terminals that are wide or narrow."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from sft.chat.__main__ import main
from tests.finished_run import finished_run

CTRL_C, CTRL_D = b"\x03", b"\x04"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    return finished_run(folder, tiny_model, "eval_every=0", "tracking=none").parent


@pytest.fixture(scope="module")
def piped(place):
    """What a chat with the run and its base model says to two questions of a file."""
    line = [sys.executable, "-m", "sft.chat", "run", "--base", "--max-tokens", "8"]
    return subprocess.run(
        line, cwd=place, input="One?\n\n/reset\nTwo?", capture_output=True, text=True, timeout=120
    )


def test_each_line_of_a_pipe_is_a_turn_that_both_answer(piped):
    assert piped.returncode == 0, piped.stderr
    assert re.findall(r"^(run|base): ", piped.stdout, re.MULTILINE) == ["run", "base"] * 2


def test_a_pipe_gets_answers_alone(piped):
    assert "> " not in piped.stdout and "Ctrl-C" not in piped.stdout
    assert piped.stderr == ""


class Terminal:
    """A chat in a terminal of so many columns."""

    def __init__(self, place, columns, *words):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(place)
                size = struct.pack("HHHH", 40, columns, 0, 0)
                fcntl.ioctl(0, termios.TIOCSWINSZ, size)
                # Without the COLUMNS that readline, which pytest imports, puts beside os.environ,
                # and that a process of this one's may have found there.
                kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
                environment = kept | {"TERM": "xterm"}
                line = [sys.executable, "-m", "sft.chat", *words]
                os.execve(sys.executable, line, environment)
            finally:
                os._exit(99)
        os.set_blocking(self.master, False)
        self.shown = ""

    def until(self, pattern, seconds=120):
        """Read until `pattern` is shown; what was shown since the last time."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, self.shown
            try:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
        shown, self.shown = self.shown, ""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)

    def type(self, keys):
        os.write(self.master, keys)

    def end(self):
        self.type(CTRL_D)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(place):
    opened = []

    def open_terminal(columns, *words):
        opened.append(Terminal(place, columns, *words))
        return opened[-1]

    yield open_terminal
    for one in opened:
        os.close(one.master)


@pytest.mark.slow
def test_a_wide_terminal_has_two_answers_beside_each_other(terminal):
    chat = terminal(120, "run", "--base", "--max-tokens", "20")
    assert "run and base: Ctrl-C stops an answer, Ctrl-D ends" in chat.until("> ")
    chat.type(b"Hi\n")
    assert re.search(r"run +base *\r\n", chat.until(r"(?s)Hi.*> $"))
    assert chat.end() == 0


@pytest.mark.slow
def test_a_narrow_terminal_has_them_below_each_other_and_ctrl_c_stops_one(terminal):
    chat = terminal(80, "run", "--base", "--max-tokens", "400")
    chat.until("> ")
    chat.type(b"Hi\n")
    chat.until("run: ")
    time.sleep(0.2)
    chat.type(CTRL_C)
    assert "(stopped)" in chat.until("> $")
    chat.type(CTRL_C)  # where nothing is said it begins a new line
    chat.until("> $")
    assert chat.end() == 0


def test_a_third_run_is_refused(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["run", "run", "--base"]) == 2
    assert capsys.readouterr().err.startswith("sft.chat: two can be compared, not more")
