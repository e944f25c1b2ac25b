"""A command whose output nobody reads to its end, as in `| head -1`, ends without a traceback."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words", [["sft.runs"], ["sft.init", "mine"], ["sft", "--help"], ["sft.preview"]]
)
def test_a_reader_who_has_gone_ends_a_command_without_a_word(tmp_path, words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE,
        text=True, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
