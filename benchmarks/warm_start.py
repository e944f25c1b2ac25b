"""Replay: how many trials a sweep needs where published tables answer each proposal.

    python benchmarks/warm_start.py                       # the table
    python benchmarks/warm_start.py --data OTHER.json     # judge on families not in the package
    python benchmarks/warm_start.py --fit                 # refit the hyperparameters first

A model's search space is its own cells plus learning rate 3e-3, which diverges; the mean of
repeated cells counts. (a) trials until one is within 0.5% of the model's best; (b) until the
smallest rank that can be within 0.5% has been found so. The prior is fitted on the Qwen3 and
Qwen3-VL models alone; "leave one out" judges it on each of those, fitted on the others.
"Plain" repeats cost a trial, as they do in Optuna; "no repeats" skips a cell that it has seen.
The data: the tinker-cookbook's published sweeps (Apache-2.0), see sweeps/prior/published.py.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from sweeps.prior.published import PACKAGED, Table, load
from sweeps.prior.response import PUBLISHED, Hyperparameters, Prior, fit
from sweeps.prior.warm_start import WarmStart
from sweeps.samplers.ordered import Ordered

FIT = ("Qwen/Qwen3-",)
LIMIT = 60  # trials after which a replay gives up and counts as that many
Make = Callable[[Table, dict, int], BaseSampler]


def space_of(table: Table, scale: float) -> dict[tuple[float, int], float]:
    ranks = {rank for _, rank in table.nll}
    nll = {(0.003, rank): math.inf for rank in ranks} | table.nll
    return {(float(f"{lr * scale:.6g}"), rank): value for (lr, rank), value in nll.items()}


def replay(table: Table, make: Make, seed: int, scale: float, repeats: bool) -> tuple[int, int]:
    """Trials to (a) and to (b)."""
    nll = space_of(table, scale)
    good = {cell for cell, value in nll.items() if value <= min(nll.values()) * 1.005}
    frugal = {cell for cell in good if cell[1] == min(rank for _, rank in good)}
    space = {
        "lr": CategoricalDistribution(sorted({lr for lr, _ in nll})),
        "lora.rank": CategoricalDistribution(sorted({rank for _, rank in nll})),
    }
    study = optuna.create_study(sampler=make(table, space, seed))
    tried: list[tuple[float, int]] = []
    found: list[int | None] = [None, None]
    for _ in range(40 * LIMIT):
        trial = study.ask(space)
        cell = (trial.params["lr"], trial.params["lora.rank"])
        if cell not in nll or (cell in tried and not repeats):
            study.tell(trial, state=TrialState.FAIL)
            continue
        tried.append(cell)
        for i, wanted in enumerate((good, frugal)):
            if found[i] is None and cell in wanted:
                found[i] = len(tried)
        if None not in found or len(tried) == LIMIT:
            break
        _tell(study, trial, nll[cell])
    return tuple(LIMIT if count is None else count for count in found)


def _tell(study: optuna.Study, trial: optuna.Trial, value: float) -> None:
    """As the sweeper does: a diverged trial is pruned with a last report."""
    if math.isfinite(value):
        study.tell(trial, value)
        return
    trial.set_user_attr("diverged", True)
    trial.report(3.0, 1)
    study.tell(trial, state=TrialState.PRUNED)


def plain(table: Table, space: dict, seed: int) -> BaseSampler:
    return Ordered(space, lambda s: TPESampler(seed=s, multivariate=True), seed)


def categorical(table: Table, space: dict, seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True)


def random(table: Table, space: dict, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def warm(priors: Callable[[str], Prior]) -> Make:
    def make(table: Table, space: dict, seed: int) -> BaseSampler:
        base = plain(table, space, seed)
        return WarmStart(base, priors(table.model), table.parameters, rank=32, seed=seed)

    return make


def row(label: str, tables: list[Table], make: Make, seeds: int, scale=1.0, repeats=False):
    counts = np.array(
        [replay(t, make, seed, scale, repeats) for t in tables for seed in range(seeds)]
    )
    a, b = counts.T
    print(
        f"{label:48s} {a.mean():5.2f} {np.percentile(a, 90):5.1f}   "
        f"{b.mean():5.2f} {np.percentile(b, 90):5.1f}",
        flush=True,
    )
    return a.reshape(len(tables), seeds).mean(axis=1), b.reshape(len(tables), seeds).mean(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=PACKAGED, help="tables to judge on")
    parser.add_argument("--fit", action="store_true", help="refit the hyperparameters")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    published, source = load()
    known = [table for table in published if table.model.startswith(FIT)]
    hyperparameters: Hyperparameters = fit(known) if arguments.fit else PUBLISHED
    print(f"tables: {source}\nprior: {len(known)} models, {hyperparameters}\n")
    prior = Prior(known, hyperparameters)
    judged = load(arguments.data)[0]
    if arguments.data == PACKAGED:
        judged = [table for table in judged if not table.model.startswith(FIT)]
    without = {
        table.model: Prior([t for t in known if t is not table], hyperparameters) for table in known
    }
    started = warm(lambda model: prior)

    print(f"{'':48s}   (a)  90%     (b)   90%   trials")
    seeds = arguments.seeds
    print(f"-- judged: {len(judged)} models")
    row("random, plain", judged, random, seeds, repeats=True)
    row("TPE on unordered choices, plain", judged, categorical, seeds, repeats=True)
    row("TPE on ordered choices, no repeats", judged, plain, seeds)
    per_model = row("warm start", judged, started, seeds)
    for scale, name in ((10.0, "x 10"), (3.0, "x 3"), (1 / 3, "/ 3"), (0.1, "/ 10")):
        row(f"warm start, every learning rate {name}", judged, started, seeds, scale)
    print(f"-- leave one out: {len(known)} models of the fit")
    row("TPE on ordered choices, no repeats", known, plain, seeds)
    row("warm start", known, warm(without.__getitem__), seeds)
    print("-- warm start, by judged model: (a), (b)")
    for table, a, b in zip(judged, *per_model, strict=True):
        print(f"{table.model:48s} {a:5.2f} {b:13.2f}")


if __name__ == "__main__":
    main()
