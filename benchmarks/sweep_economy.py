"""Replay: what a sweep's answer costs in tokens, where recorded curves answer each trial.

    python benchmarks/sweep_economy.py                      # benchmarks/curves/*.parquet
    python benchmarks/sweep_economy.py --curves FOLDER      # other grids, of the same columns
    python benchmarks/sweep_economy.py --only freeze_thaw --seeds 5

A grid is one file and one of its training seeds: a cell is a learning rate and a rank, its curve
the evaluations of that run (columns lr, rank, seed, step, steps, tokens, nll, stderr, diverged).
Each scheduler sweeps each grid with several seeds of its own, as an Optuna study would, one trial
at a time (`--jobs` for more); no cell is tried twice. Tokens are shares of the full grid's.

- "found": tokens until a complete trial is within 0.3% of the grid's best final NLL; a sweep that
  ends without one counts with the full grid, and its share is in the next column.
- regret: final NLL of the answer above the grid's best, after 10%, 30% and 100% of the tokens. The
  answer is the best complete trial. Before there is one, it is the final value of the trial that
  would be named, the best of those that are furthest; a trial that will diverge counts as the
  grid's worst finite cell.
"""

import argparse
import heapq
import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import optuna
import pyarrow
import pyarrow.parquet
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from sft.prior.prior import published
from sft.prior.published import Cell
from sft.prior.setting import Setting
from sft.sweeps.parameters import RANK, RATE, Space
from sft.sweeps.samplers import random, tpe
from sft.sweeps.samplers.warm_start import WarmStart
from sft.sweeps.scheduling.asha import Asha
from sft.sweeps.scheduling.base import Limits, Scheduler, Thaw
from sft.sweeps.scheduling.curves import Curve, Point, State, named
from sft.sweeps.scheduling.freeze_thaw import FreezeThaw

HERE = Path(__file__).resolve().parent
COLUMNS = ("lr", "rank", "seed", "step", "steps", "tokens", "nll", "diverged")
NEAR = 1.003
BUDGETS = (0.1, 0.3, 1.0)


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
        value = self.finals[_cell(curve.parameters)] if curve else worst
        return min(value, worst) / self.best - 1

    @property
    def space(self) -> Space:
        rates, ranks = ({cell[i] for cell in self.curves} for i in (0, 1))
        return {
            RATE: CategoricalDistribution(sorted(rates)),
            RANK: CategoricalDistribution(sorted(ranks)),
        }


def _cell(parameters: object) -> Cell:
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


@dataclass
class Sweep:
    """A replayed sweep: what it has trained, and what its answer was when."""

    grid: Grid
    study: optuna.Study
    curves: list[Curve] = field(default_factory=list)
    trials: list[optuna.Trial] = field(default_factory=list)
    history: list[tuple[float, float, bool]] = field(default_factory=list)
    """Tokens trained, regret of the answer, whether the answer is complete."""

    def start(self, wanted: dict[str, object] | None = None) -> int | None:
        """A new trial, as the sampler draws it; None once every cell was tried."""
        space, tried = self.grid.space, {_cell(c.parameters) for c in self.curves}
        if tried >= self.grid.curves.keys():
            return None
        if wanted:
            self.study.enqueue_trial(wanted)
        for _ in range(2000):
            trial = self.study.ask(space)
            cell = _cell(trial.params)
            if cell in self.grid.curves and cell not in tried:
                break
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            left = sorted(self.grid.curves.keys() - tried)
            self.study.enqueue_trial({RATE: left[0][0], RANK: left[0][1]})
            trial = self.study.ask(space)
        self.trials.append(trial)
        whole = self.grid.curves[_cell(trial.params)]
        number = len(self.curves)
        self.curves.append(Curve(number, dict(trial.params), (), State.RUNNING, whole.whole))
        return number

    def train(self, number: int, rung: float) -> Curve:
        """Until its first evaluation at `rung` or behind it."""
        curve = self.curves[number]
        whole = self.grid.curves[_cell(curve.parameters)]
        for point in whole.points[len(curve.points) :]:
            curve = replace(curve, points=(*curve.points, point))
            if rung < 1 and point.tokens >= rung * whole.whole - 0.5:
                break
        ended = len(curve.points) == len(whole.points)
        return replace(curve, state=whole.state if ended else State.PAUSED)

    def put(self, curve: Curve) -> None:
        """What a trial has come to; the study hears what Optuna's sampler may know."""
        before = len(self.curves[curve.number].points)
        self.curves[curve.number] = curve
        trial = self.trials[curve.number]
        for point in curve.points[before:]:
            if math.isfinite(point.value):
                trial.report(point.value, point.tokens)
        if curve.state is State.COMPLETE:
            self.study.tell(trial, curve.points[-1].value)
        elif curve.state is State.DIVERGED:
            self.diverge(trial)

    def diverge(self, trial: optuna.Trial) -> None:
        trial.set_user_attr("diverged", True)
        if not self.study._storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(1e3, 0)
        self.study.tell(trial, state=TrialState.PRUNED)

    def note(self, spent: float) -> None:
        answer = named(self.curves)
        complete = answer is not None and answer.state is State.COMPLETE
        self.history.append((spent / self.grid.tokens, self.grid.regret(answer), complete))

    def regret_after(self, share: float) -> float:
        """Regret after a share of the full grid's tokens."""
        known = [regret for spent, regret, _ in self.history if spent <= share + 1e-9]
        return known[-1] if known else self.grid.regret(None)

    @property
    def settled(self) -> bool:
        """The grid's best is complete: the answer stays as it is."""
        return bool(self.history) and self.history[-1][1:] == (0.0, True)

    @property
    def found(self) -> float | None:
        """Share of the tokens at which a complete trial was good enough."""
        near = (s for s, regret, complete in self.history if complete and regret <= NEAR - 1)
        return next(near, None)


def replay_scheduler(grid: Grid, make: "Make", seed: int, jobs: int) -> Sweep:
    """A sweep whose trials pause and go on."""
    scheduler, sampler = make(grid, seed)
    sweep = Sweep(grid, optuna.create_study(sampler=sampler))
    limits = Limits(len(grid.curves))
    running: list[tuple[float, int, Curve]] = []  # when it stands again, its number, how
    now, done, since = 0.0, 0.0, {}
    while True:
        while len(running) < jobs:
            choice = scheduler.next(sweep.curves, limits)
            if choice is None:
                break
            if isinstance(choice, Thaw):
                number = choice.number
                assert sweep.curves[number].state is State.PAUSED
                sweep.curves[number] = replace(sweep.curves[number], state=State.RUNNING)
            else:
                number = sweep.start(dict(choice.parameters))
                assert number is not None
            then = sweep.train(number, choice.rung)
            before = sweep.curves[number].points
            cost = then.points[-1].tokens - (before[-1].tokens if before else 0)
            since[number] = now
            heapq.heappush(running, (now + cost, number, then))
        if not running or sweep.settled:
            return sweep
        start = now
        now, number, then = heapq.heappop(running)
        done += (now - start) * (len(running) + 1)
        sweep.put(then)
        sweep.note(done)


def replay_pruner(grid: Grid, sampler: BaseSampler, pruner: BasePruner) -> Sweep:
    """A sweep whose trials go on to their end or are ended for good, one after the other."""
    sweep = Sweep(grid, optuna.create_study(sampler=sampler, pruner=pruner))
    spent = 0
    while not sweep.settled and (number := sweep.start()) is not None:
        trial, curve = sweep.trials[number], sweep.curves[number]
        whole = grid.curves[_cell(curve.parameters)]
        for step, point in enumerate(whole.points):
            spent += point.tokens - (curve.points[-1].tokens if curve.points else 0)
            curve = replace(curve, points=(*curve.points, point))
            last = step == len(whole.points) - 1
            if last:
                curve = replace(curve, state=whole.state)
            sweep.curves[number] = curve
            sweep.note(spent)
            if not last and step:
                trial.report(point.value, step)
                if trial.should_prune():
                    # Ended for good. A named trial may be one of these: State.PAUSED says so.
                    sweep.curves[number] = replace(curve, state=State.PAUSED)
                    sweep.study.tell(trial, state=TrialState.PRUNED)
                    break
        else:
            if whole.state is State.COMPLETE:
                sweep.study.tell(trial, whole.points[-1].value)
            else:
                sweep.diverge(trial)
    return sweep


Make = Callable[[Grid, int], tuple[Scheduler, BaseSampler]]


def warm(grid: Grid, seed: int, model: str, setting: Setting) -> BaseSampler:
    return WarmStart(tpe.make(grid.space, seed), published(), model, setting, rank=32, seed=seed)


def rows(model: str, setting: Setting, jobs: int) -> dict[str, Callable[[Grid, int], Sweep]]:
    """Each scheduler by name."""

    def to_the_end(make: Callable[[Grid, int], BaseSampler], pruner=None):
        def sweep(grid: Grid, seed: int) -> Sweep:
            evaluations = max(len(c.points) for c in grid.curves.values()) - 1
            return replay_pruner(
                grid, make(grid, seed), pruner(evaluations) if pruner else NopPruner()
            )

        return sweep

    def scheduled(make: Make):
        return lambda grid, seed: replay_scheduler(grid, make, seed, jobs)

    def plain(grid: Grid, seed: int) -> BaseSampler:
        return tpe.make(grid.space, seed)

    def warmed(grid: Grid, seed: int) -> BaseSampler:
        return warm(grid, seed, model, setting)

    def freeze_thaw(grid: Grid, seed: int):
        def surface(cells, shift):
            return published().before(cells, model, setting, shift)

        return FreezeThaw(surface, list(grid.curves), seed), warmed(grid, seed)

    return {
        "random, to the end": to_the_end(lambda g, s: random.make(g.space, s)),
        "TPE, to the end": to_the_end(plain),
        "TPE, Optuna's ASHA": to_the_end(
            plain, lambda n: SuccessiveHalvingPruner(max(1, round(n / 9)), 3)
        ),
        "TPE, Optuna's Hyperband": to_the_end(
            plain, lambda n: HyperbandPruner(max(1, round(n / 9)), n, 3)
        ),
        "TPE, asha": scheduled(lambda g, s: (Asha(), plain(g, s))),
        "warm start, to the end": to_the_end(warmed),
        "warm start, asha": scheduled(lambda g, s: (Asha(), warmed(g, s))),
        "warm start, freeze_thaw": scheduled(freeze_thaw),
    }


def one_or_more(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--curves", type=Path, default=HERE / "curves")
    parser.add_argument("--seeds", type=one_or_more, default=20)
    parser.add_argument(
        "--jobs", type=one_or_more, default=1, help="trials at once, where trials pause"
    )
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="its name tells its size")
    parser.add_argument("--batch-size", type=one_or_more, default=4, help="sequences a step")
    parser.add_argument("--steps", type=one_or_more, default=60, help="of a whole trial")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    setting = Setting(arguments.batch_size, arguments.steps)
    every_row = rows(arguments.model, setting, arguments.jobs)
    chosen = {name: sweep for name, sweep in every_row.items() if arguments.only in name}
    if not chosen:
        parser.error(f"--only: '{arguments.only}' is in none of {', '.join(every_row)}")
    every = grids(arguments.curves)
    for grid in every:
        good = sum(v <= NEAR * grid.best for v in grid.finals.values())
        diverged = sum(v == math.inf for v in grid.finals.values())
        print(
            f"{grid.name}: {len(grid.curves)} cells, {good} of them within 0.3% of the best, "
            f"{diverged} diverged, {grid.tokens} tokens"
        )
    print(f"\n{'':26s}   found  reached   regret at 10%     at 30%          at 100%")
    print(f"{'':26s}                   mean  worst     mean  worst     mean  worst")
    for name, sweep in chosen.items():
        done = [(g, sweep(g, seed)) for g in every for seed in range(arguments.seeds)]
        _print(name, [s for _, s in done])
        for grid in every if len(every) > 1 else ():
            _print(f"  {grid.name}", [s for g, s in done if g is grid])


def _print(name: str, sweeps: list[Sweep]) -> None:
    found = [s.found for s in sweeps]
    cost = np.mean([1.0 if f is None else f for f in found])
    cells = []
    for share in BUDGETS:
        regrets = np.array([s.regret_after(share) for s in sweeps])
        cells.append(f"{100 * regrets.mean():5.2f}% {100 * regrets.max():5.1f}%")
    reached = np.mean([f is not None for f in found])
    print(f"{name:26s} {100 * cost:6.1f}% {100 * reached:7.0f}%  " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
