"""What the prior's first guess is worth for a family of models that it has not seen.

    python benchmarks/warm_start.py                       # each family left out in turn
    python benchmarks/warm_start.py --data OTHER.json     # judge other tables, fitted on all ours

For each family (`sft.prior.names.FAMILIES`) the prior is fitted to the tables of the others alone.
A model's search space is its own cells, plus learning rate 3e-3 where that was not run, which
diverges; the mean of repeated cells counts.

regret   of the first guess: its NLL above the best cell's, in percent
(a)      trials until one is within 0.5% of the best cell
(b)      trials until the smallest rank that can be within 0.5% has been found so
"""

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from sft.errors import BadInput
from sft.prior.fitting import fit
from sft.prior.names import FAMILIES, family_of
from sft.prior.prior import Prior
from sft.prior.published import Cell, Table, load
from sft.prior.setting import PUBLISHED
from sft.sweeps.samplers.ordered import Ordered
from sft.sweeps.samplers.warm_start import WarmStart

LIMIT = 60  # trials after which a replay gives up and counts as that many
Make = Callable[[Table, dict, int], BaseSampler]


def space_of(table: Table, scale: float = 1.0) -> dict[Cell, float]:
    """The NLL of every cell that may be proposed, with all learning rates times `scale`."""
    nll = {(0.003, rank): math.inf for _, rank in table.nll} | table.nll
    return {(float(f"{lr * scale:.6g}"), rank): value for (lr, rank), value in nll.items()}


def replay(table: Table, make: Make, seed: int, scale: float = 1.0) -> tuple[float, int, int]:
    """Regret of the first trial in percent, and trials to (a) and to (b)."""
    nll = space_of(table, scale)
    good = {cell for cell, value in nll.items() if value <= table.best * 1.005}
    frugal = {cell for cell in good if cell[1] == min(rank for _, rank in good)}
    space = {
        "lr": CategoricalDistribution(sorted({lr for lr, _ in nll})),
        "lora.rank": CategoricalDistribution(sorted({rank for _, rank in nll})),
    }
    study = optuna.create_study(sampler=make(table, space, seed))
    tried: list[Cell] = []
    found: list[int | None] = [None, None]
    for _ in range(40 * LIMIT):
        trial = study.ask(space)
        cell = (trial.params["lr"], trial.params["lora.rank"])
        if cell not in nll or cell in tried:  # not published, or known already: costs nothing
            study.tell(trial, state=TrialState.FAIL)
            continue
        tried.append(cell)
        for i, wanted in enumerate((good, frugal)):
            if found[i] is None and cell in wanted:
                found[i] = len(tried)
        if None not in found or len(tried) == LIMIT:
            break
        _tell(study, trial, nll[cell])
    regret = 100 * (nll[tried[0]] / table.best - 1)
    a, b = (LIMIT if count is None else count for count in found)
    return regret, a, b


def _tell(study: optuna.Study, trial: optuna.Trial, value: float) -> None:
    """As the sweeper does: a diverged trial is pruned with a last report."""
    if math.isfinite(value):
        study.tell(trial, value)
        return
    trial.set_user_attr("diverged", True)
    trial.report(3.0, 1)
    study.tell(trial, state=TrialState.PRUNED)


def tpe(table: Table, space: dict, seed: int) -> BaseSampler:
    return Ordered(space, lambda s: TPESampler(seed=s, multivariate=True), seed)


def warm(prior_for: Callable[[Table], Prior]) -> Make:
    def make(table: Table, space: dict, seed: int) -> BaseSampler:
        return WarmStart(
            tpe(table, space, seed), prior_for(table), table.model, PUBLISHED, 32, seed
        )

    return make


def row(label: str, tables: list[Table], make: Make, seeds: int, scale: float = 1.0) -> np.ndarray:
    """Print one line; [tables, 3]: regret, (a) and (b), each a mean over seeds."""
    found = np.array([[replay(t, make, s, scale) for s in range(seeds)] for t in tables])
    regret, a, b = found[..., 0], found[..., 1], found[..., 2]
    worst = f"{regret.max():6.2f}" if np.isfinite(regret).all() else "  diverges"
    mean = f"{regret.mean():6.2f}" if np.isfinite(regret).all() else "     -"
    print(
        f"{label:44s} {mean} {worst}   {a.mean():5.2f} {np.percentile(a, 90):4.0f}   "
        f"{b.mean():5.2f} {np.percentile(b, 90):4.0f}",
        flush=True,
    )
    return found.mean(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="other tables to judge on")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds: {arguments.seeds} is below 1")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    published, source = load()
    print(f"tables: {source}")
    if arguments.data:
        try:
            judged = load(arguments.data, "--data ")[0]
        except BadInput as error:
            parser.error(str(error))
        prior = Prior(fit(published))
        make = warm(lambda table: prior)
        print(f"judged: {len(judged)} others, by a prior of all {len(published)}\n")
    else:
        judged = sorted(published, key=lambda table: (family_of(table.model) or "", table.model))
        others = {
            family: Prior(fit([t for t in published if family_of(t.model) != family]))
            for family in FAMILIES
        }
        make = warm(lambda table: others[family_of(table.model) or ""])
        print(f"judged: {len(judged)} models of {len(FAMILIES)} families, each left out in turn\n")

    seeds = arguments.seeds
    print(f"{'':44s} regret  worst     (a)  90%     (b)  90%")
    row("TPE", judged, tpe, seeds)
    by_model = row("first guess and warm start", judged, make, seeds)
    for scale, name in ((10.0, "x 10"), (3.0, "x 3"), (1 / 3, "/ 3"), (0.1, "/ 10")):
        row(f"the same, every learning rate {name}", judged, make, seeds, scale)
    print(f"\n{'first guess and warm start, by model':44s} regret            (a)          (b)")
    for table, (regret, a, b) in zip(judged, by_model, strict=True):
        print(f"{table.model:44s} {regret:6.2f}          {a:5.2f}        {b:5.2f}")


if __name__ == "__main__":
    main()
