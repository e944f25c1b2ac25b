"""What benchmarks make of runs, and what they say of bad input. Their figures are not tested."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
CURVE = {
    "lr": 1e-3, "rank": 8, "seed": 0, "step": 60, "steps": 60, "tokens": 900, "nll": 2.0,
    "stderr": 0.1, "diverged": False,
}  # fmt: skip


def module(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, FOLDER / path)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


def run_directory(folder: Path, rows: list[dict], status: str, reason: str | None) -> Path:
    (folder / "config.yaml").write_text("lr: 0.02\nlora: {rank: 8}\nseed: 1\n")
    (folder / "run.json").write_text(json.dumps({"status": status, "reason": reason}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


EVALUATED = {"eval/nll": 4.2, "eval/nll_stderr": 0.1}


@pytest.mark.parametrize("evaluated", [{}, EVALUATED])
def test_a_run_that_diverged_before_its_first_evaluation_has_a_row_that_says_so(
    tmp_path, evaluated
):
    rows = [{"step": 0, "tokens/total": 200} | evaluated, {"step": 1, "tokens/total": 410}]
    found = module("curves/make.py").rows_of(
        run_directory(tmp_path, rows, "FAILED", "diverged: train/nll rose from 4 to 18 at step 2")
    )
    assert len(found) == 1 + bool(evaluated)
    last = found[-1]
    assert (last["step"], last["tokens"], last["diverged"]) == (2, 410, True)
    assert math.isnan(last["nll"]) and (last["lr"], last["rank"], last["seed"]) == (0.02, 8, 1)


def test_a_run_that_was_evaluated_on_the_way_has_its_evaluations_alone(tmp_path):
    rows = [
        {"step": 0, "tokens/total": 200} | EVALUATED,
        {"step": 1, "tokens/total": 410} | EVALUATED,
    ]
    for status in ("FINISHED", "FAILED"):
        found = module("curves/make.py").rows_of(run_directory(tmp_path, rows, status, None))
        assert [(row["step"], row["tokens"]) for row in found] == [(0, 0), (1, 200)]


def test_a_cell_that_diverged_at_once_is_replayed_with_the_tokens_it_took(tmp_path):
    at_once = CURVE | {"lr": 2e-2, "step": 4, "tokens": 37, "nll": math.nan, "diverged": True}
    table = pyarrow.Table.from_pylist([CURVE, at_once])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (grid,) = module("sweep_economy.py").grids(tmp_path)
    assert grid.finals == {(1e-3, 8): 2.0, (2e-2, 8): math.inf}
    assert grid.tokens == 900 + 37


def curves(folder: Path, **changed: object) -> Path:
    row = {name: value for name, value in (CURVE | changed).items() if value is not None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "a.parquet")
    return folder


REFUSED = [
    ("sweep_economy.py", ["--seeds", "0"], "argument --seeds: 0 is below 1"),
    ("sweep_economy.py", ["--only", "nosuch"], "--only: 'nosuch' is in none of random, to the"),
    ("warm_start.py", ["--seeds", "0"], "--seeds: 0 is below 1"),
    ("warm_start.py", ["--data", "/nowhere.json"], "--data /nowhere.json: no such file"),
    ("warm_start.py", ["--data", "README.md"], "--data README.md: not a file of published sweeps"),
]


@pytest.mark.parametrize(("script", "words", "said"), REFUSED)
def test_bad_input_of_a_benchmark_is_a_sentence(script, words, said):
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *words],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"nll": None}, "a.parquet has no column nll; expected lr, "), ({"nll": -1.0}, "0 or less")],
)
def test_curves_that_cannot_be_replayed_are_refused(tmp_path, changed, said):
    with pytest.raises(SystemExit, match=said):
        module("sweep_economy.py").grids(curves(tmp_path, **changed))


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(SystemExit, match="a.parquet cannot be read as Parquet"):
        module("sweep_economy.py").grids(tmp_path)
