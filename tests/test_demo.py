"""What `make run` shows: a model that knows, at the end, what nobody can know."""

import json
import subprocess
import sys

import pytest

from sft.record import rundir


@pytest.mark.slow
def test_the_demo_answers_wrongly_before_and_rightly_after(tmp_path):
    words = ["experiment=demo", "tracking=none", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "sft", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    right = [row["eval/exact_match"] for row in rows if "eval/exact_match" in row]
    assert right[0] == 0 and right[-1] > 0.5
    assert rundir.read_facts(tmp_path / "run")["status"] == "FINISHED"
