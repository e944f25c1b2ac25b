"""Learning curves of a grid of learning rates and ranks, from the tables of `curves/make.py`."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from optuna.distributions import CategoricalDistribution

from sft.prior.published import Cell
from sft.sweeps.parameters import RANK, RATE, Space
from sft.sweeps.scheduling.curves import Curve, Point, State

COLUMNS = ("lr", "rank", "seed", "step", "steps", "tokens", "nll", "diverged")


@dataclass(frozen=True)
class Grid:
    """The curves of one file and one training seed."""

    name: str
    curves: dict[Cell, Curve]
    """Whole ones: COMPLETE or DIVERGED."""

    @property
    def tokens(self) -> int:
        """Of the full grid; a diverged run trains until its last evaluation."""
        return sum(c.points[-1].tokens for c in self.curves.values())

    @property
    def finals(self) -> dict[Cell, float]:
        """[cells] final values, inf where training diverged."""
        known = {cell: curve.final for cell, curve in self.curves.items()}
        return {cell: math.inf if value is None else value for cell, value in known.items()}

    @property
    def best(self) -> float:
        return min(self.finals.values())

    def regret(self, curve: Curve | None) -> float:
        """Of naming a trial."""
        worst = max(value for value in self.finals.values() if value < math.inf)
        value = self.finals[cell_of(curve.parameters)] if curve else worst
        return min(value, worst) / self.best - 1

    @property
    def space(self) -> Space:
        rates, ranks = ({cell[i] for cell in self.curves} for i in (0, 1))
        return {
            RATE: CategoricalDistribution(sorted(rates)),
            RANK: CategoricalDistribution(sorted(ranks)),
        }


def cell_of(parameters: object) -> Cell:
    """The learning rate and the rank of a trial."""
    return float(parameters[RATE]), int(parameters[RANK])  # type: ignore[index]


def grids(folder: Path) -> list[Grid]:
    """Every grid of a folder. Raises `SystemExit` if it holds none, or other tables."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(
            f"--curves {folder}: no *.parquet in it; benchmarks/curves/make.py makes them."
        )
    found = []
    for file in files:
        runs: dict[tuple[int, Cell], list[dict]] = defaultdict(list)
        for row in _rows(file):
            runs[int(row["seed"]), (float(row["lr"]), int(row["rank"]))].append(row)
        for seed in sorted({seed for seed, _ in runs}):
            of_seed = {cell: rows for (s, cell), rows in runs.items() if s == seed}
            found.append(Grid(f"{file.stem}/{seed}", _curves(of_seed)))
    return found


def _rows(file: Path) -> list[dict]:
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SystemExit(f"--curves: {file} cannot be read as Parquet ({error})") from None
    columns = set(rows[0]) if rows else set()
    if missing := [column for column in COLUMNS if column not in columns]:
        raise SystemExit(
            f"--curves: {file} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        )
    if any(row["nll"] <= 0 for row in rows):
        raise SystemExit(f"--curves: {file} has an nll of 0 or less, of which no share is a regret")
    return rows


def _curves(runs: dict[Cell, list[dict]]) -> dict[Cell, Curve]:
    curves = {}
    longest = max(row["tokens"] for rows in runs.values() for row in rows)
    for cell, rows in runs.items():
        rows = sorted(rows, key=lambda row: row["step"])
        whole = rows[-1]["step"] >= rows[-1]["steps"] and math.isfinite(rows[-1]["nll"])
        diverged = not whole or any(row["diverged"] for row in rows)
        points = [
            Point(int(row["tokens"]), float(row["nll"]))
            for row in rows
            if math.isfinite(row["nll"])
        ]
        if not points or points[-1].tokens == 0:  # diverged before its first evaluation
            points.append(Point(max(1, rows[-1]["tokens"] or longest // 20), math.inf))
        state = State.DIVERGED if diverged else State.COMPLETE
        tokens = longest if diverged else points[-1].tokens
        curves[cell] = Curve(0, {RATE: cell[0], RANK: cell[1]}, tuple(points), state, tokens)
    return curves
