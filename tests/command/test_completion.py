"""Tab, pressed in a bash that has loaded the completion."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Bash:
    """An interactive bash at a terminal of its own."""

    def __init__(self, folder):
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT), "PS1": "> ", "TERM": "dumb", "COLUMNS": "200",
        }  # fmt: skip
        process, self.terminal = pty.fork()
        if process == 0:
            os.chdir(folder)
            os.execve(shutil.which("bash"), ["bash", "--norc", "--noprofile", "-i"], environment)
        self.types('eval "$(python -m sft -sc install=bash)"; echo re""ady\n', "ready")

    def types(self, keys, awaited):
        """What the terminal shows behind `keys`, up to `awaited` (a pattern)."""
        os.write(self.terminal, keys.encode())
        shown, until = "", time.monotonic() + 60
        while not re.search(awaited, shown):
            ready, _, _ = select.select([self.terminal], [], [], until - time.monotonic())
            assert ready, f"waited for {awaited!r} behind {keys!r}: {shown!r}"
            shown += os.read(self.terminal, 4096).decode()
        os.write(self.terminal, b"\x15")  # the line is cleared
        return shown


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    folder = tmp_path_factory.mktemp("shell")
    (folder / "chats.jsonl").touch()
    group = folder / "mine" / "model"
    group.mkdir(parents=True)
    (group / "of_our_own.yaml").write_text("name: x\n")
    for name in ("01-01-00-first", "01-02-00-again", "01-03-00-again"):
        run = folder / "outputs" / "2026-01-31" / name
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        (run / "run.json").touch()
    shell = Bash(folder)
    yield shell
    os.close(shell.terminal)


@pytest.mark.parametrize(
    "typed, completed",
    [
        ("sft lora.ra", r"lora\.rank="),
        ("sft train model=qwen3_s", "model=qwen3_small"),
        ("sft reprod", "reproduce"),
        ("python -m sft --multirun hydra.sweeper.n_tr", r"hydra\.sweeper\.n_trials="),
        ("python -m sft.preview dataset=file dataset.path=ch", r"dataset\.path=chats\.jsonl"),
        ("sft --config-dir mine model=of_", "model=of_our_own"),
        ("python -m sft.runs cha", r"chats\.jsonl"),
        ("sft chat fi", "first"),
        ("python -m sft.export 01-03", "01-03-00-again"),
        ("sft resume la", "last"),
        ("python cha", r"chats\.jsonl"),
    ],
)
def test_tab_completes(bash, typed, completed):
    assert bash.types(typed + "\t", completed)


def test_an_unknown_shell_is_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "sft", "-sc", "install=tcsh"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("sft: -sc: expected install=SHELL")
