"""Learning curves of learning-rate x rank grids, as the product itself trains them.

    python benchmarks/curves/make.py            # both data sets; about two hours on two cores
    python benchmarks/curves/make.py sums       # one of them

Each grid is one sweep of this product on its local service (SmolLM2-135M, 8 learning rates, 3
ranks, 2 seeds), in `outputs/curves`. A grid that was interrupted goes on. Its curves become
`benchmarks/curves/NAME.parquet`, which `benchmarks/sweep_economy.py` replays: a row for each
evaluation, with the trained tokens at it. A diverged run has the evaluations it got to; one that
got to none has a row without a value.
"""

import ast
import importlib.util
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet

HERE = Path(__file__).resolve().parent
LEARNING_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
RANKS = (2, 8, 32)
SEEDS = (0, 1)
STEPS, BATCH, EVERY, HELD_OUT = 60, 4, 5, 32
COLUMNS = ("lr", "rank", "seed", "step", "steps", "tokens", "nll", "stderr", "diverged")


def docs() -> list[tuple[str, str]]:
    """Questions about Python's standard library, and what its docstrings say."""
    modules = sorted(sys.stdlib_module_names - {"antigravity", "this"})
    rows = []
    for module in modules:
        spec = importlib.util.find_spec(module) if not module.startswith("_") else None
        if spec is None or not (spec.origin or "").endswith(".py"):
            continue
        tree = ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8"))
        for node in tree.body:
            said = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            said = " ".join((said or "").split("\n\n")[0].split())
            if said and not node.name.startswith("_") and 30 <= len(said) <= 240:
                rows.append((f"What does {module}.{node.name} do?", said))
    return rows


def sums() -> list[tuple[str, str]]:
    """Small sums in words, with the way to the result: every row follows one rule."""
    draw = random.Random(0)
    names, things = ("Ada", "Ben", "Cleo", "Dan", "Eva"), ("nuts", "pens", "eggs", "cups")
    rows = []
    for _ in range(400):
        name, thing = draw.choice(names), draw.choice(things)
        had, times, gave = draw.randint(2, 30), draw.randint(2, 5), draw.randint(1, 9)
        now = had * times
        rows.append(
            (
                f"{name} has {had} {thing} in each of {times} boxes and gives {gave} away. "
                "How many are left?",
                f"{times} boxes of {had} are {now} {thing}. {now} - {gave} = {now - gave}. "
                f"{name} has {now - gave} {thing} left.",
            )
        )
    return rows


DATA = {"docs": docs, "sums": sums}


def command(name: str, data: Path) -> list[str]:
    """The sweep that trains the grid."""
    return [
        sys.executable, "-m", "sft", "--multirun", "model=smollm2", "dataset=file",
        f"dataset.path={data}", f"dataset.eval_size={HELD_OUT}", "max_length=256",
        f"lr={','.join(f'{lr:g}' for lr in LEARNING_RATES)}",
        f"lora.rank={','.join(map(str, RANKS))}", f"seed={','.join(map(str, SEEDS))}",
        f"batch_size={BATCH}", f"max_steps={STEPS}", f"eval_every={EVERY}",
        "evaluators.held_out_answers=0", "tracking=none", "hydra.sweeper.n_jobs=2",
        f"hydra.sweeper.study_name=curves-{name}",
    ]  # fmt: skip


def rows_of(directory: Path) -> list[dict[str, float | int | bool]]:
    """The evaluations of a run. One that diverged before its first evaluation behind step 0 has a
    last row without a value, with the tokens that it trained on."""
    record = json.loads((directory / "run.json").read_text())
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    metrics = sorted(map(json.loads, lines), key=lambda row: row["step"])
    settings = _yaml(directory / "config.yaml")
    diverged = record["status"] == "FAILED" or "rose" in (record["reason"] or "")
    run = {
        "lr": float(settings["lr"]),
        "rank": int(settings["lora"]["rank"]),
        "seed": int(settings["seed"]),
        "steps": STEPS,
        "diverged": diverged,
    }
    step, tokens, rows = 0, 0, []
    for row in metrics:
        if "eval/nll" in row:
            value = {"nll": row["eval/nll"], "stderr": row["eval/nll_stderr"]}
            rows.append(run | value | {"step": row["step"], "tokens": tokens})
        if "tokens/total" in row:
            step, tokens = row["step"] + 1, int(row["tokens/total"])
    if diverged and not any(row["step"] for row in rows):
        rows.append(run | {"step": step, "tokens": tokens, "nll": math.nan, "stderr": math.nan})
    return rows


def _yaml(path: Path):
    from sft.files import read_yaml

    return read_yaml(path)


def main() -> None:
    for name in sys.argv[1:] or DATA:
        folder = Path("outputs/curves")
        folder.mkdir(parents=True, exist_ok=True)
        data = (folder / f"{name}.jsonl").resolve()
        rows = [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
            for q, a in DATA[name]()
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        subprocess.run(command(name, data), check=True)
        runs = Path("outputs/sweeps") / f"curves-{name}"
        curves = [row for run in sorted(runs.glob("*/run.json")) for row in rows_of(run.parent)]
        table = pyarrow.Table.from_pylist(curves).select(COLUMNS)
        pyarrow.parquet.write_table(table, HERE / f"{name}.parquet", compression="zstd")
        print(f"{name}: {len(curves)} evaluations of {len(list(runs.glob('*/run.json')))} runs")


if __name__ == "__main__":
    main()
