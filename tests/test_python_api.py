"""docs/python-api.md, every block run in order, as somebody runs them who reads it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chat_data import write_chats

PAGE = Path(__file__).parent.parent / "docs/python-api.md"


@pytest.mark.slow
def test_every_block_of_the_page_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) > 7
    write_chats(tmp_path / "chats.jsonl", count=60)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "steps in" in said
    assert "FINISHED good enough" in said
    assert (tmp_path / "mine.db").exists()
    assert re.search(r"^-\d+\.\d+ -\d+\.\d+$", said, flags=re.MULTILINE)  # politeness
    assert re.findall(r"^(3e-04|0\.0003|0\.001|0\.003) \d\.\d+$", said, flags=re.MULTILINE)
    assert "eval/nll: B against A: " in said
