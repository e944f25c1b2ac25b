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
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recorded_curves import Grid, grids  # noqa: E402
from benchmarks.replay import NEAR, Make, Sweep, replay_pruner, replay_scheduler  # noqa: E402
from sft.prior.prior import published  # noqa: E402
from sft.prior.setting import Setting  # noqa: E402
from sft.sweeps.samplers import random, tpe  # noqa: E402
from sft.sweeps.samplers.warm_start import WarmStart  # noqa: E402
from sft.sweeps.scheduling.asha import Asha  # noqa: E402
from sft.sweeps.scheduling.freeze_thaw import FreezeThaw  # noqa: E402

HERE = Path(__file__).resolve().parent
BUDGETS = (0.1, 0.3, 1.0)


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
