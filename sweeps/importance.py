"""Which parameters a metric's variation comes from, where the trials of a study can tell.

The trials of a full grid are split exactly, interactions included (`sweeps.variation`). Others are
estimated by Optuna's fANOVA: a forest of regression trees (Hutter, Hoos and Leyton-Brown, 2014),
which finds structure in anything, so that each estimate stands beside what the same forest makes
of the same values in shuffled order.
"""

from dataclasses import dataclass

import numpy as np
import optuna

from sweeps.results import Result, Results
from sweeps.variation import Shares, cells_of, of_grid

FEWEST_TRIALS = 10  # for the forest
SHUFFLES = 19  # an estimate above all of them would come by chance once in twenty times
MOST_BARS = 8


@dataclass
class Importance:
    """Shares of the variation, what chance gives instead, and what the figure says of itself."""

    shares: dict[str, float]
    chance: dict[str, float] | None
    chance_is: str
    title: str
    caption: str


def importance(study: optuna.Study, results: Results) -> Importance | str | None:
    """The shares, or a sentence that says why there are none; None where nothing is asked.

    A study with fewer than two parameters that vary, or than four complete trials, asks nothing.
    """
    complete = results.complete
    varied = [n for n in results.space if len({str(t.params.get(n)) for t in complete}) > 1]
    if len(complete) < 4 or len(varied) < 2:
        return None
    metric = results.metrics[0]
    if len({trial.values[0] for trial in complete}) == 1:
        return f"every trial has the same {metric}: there is no variation to explain"
    shares = of_grid(
        varied,
        cells_of(varied, [(t.params, t.values[0]) for t in complete]),
        _repeats(varied, complete),
    )
    if shares is not None:
        return _of_grid(shares, len(results.trials) - len(complete), metric)
    return _of_forest(study, varied, complete, metric)


def _repeats(varied: list[str], trials: list[Result]) -> dict[tuple, list[float]] | None:
    """Each combination's repeats; None where seeds were not the same for all, or there are none."""
    found = {tuple(t.params.get(n) for n in varied): t.repeats for t in trials}
    seeds = {tuple(trial.seeds) for trial in trials}
    return found if len(seeds) == 1 and seeds != {()} and len(found) == len(trials) else None


def _of_grid(shares: Shares, missing: int, metric: str) -> Importance:
    named = {" x ".join(names): share for names, share in shares.shares.items()}
    noise = shares.noise and {" x ".join(names): value for names, value in shares.noise.items()}
    if len(named) > MOST_BARS:
        shown = sorted(named, key=named.__getitem__, reverse=True)[: MOST_BARS - 1]
        for values in filter(None, (named, noise)):
            rest = sum(value for name, value in values.items() if name not in shown)
            for name in [name for name in values if name not in shown]:
                del values[name]
            values["the rest"] = rest
    caption = f"Exact for the {shares.cells} combinations of the grid"
    if missing:
        caption += f" of complete trials (trials left out: {missing})"
    if noise is None:
        caption += ".\nOne run each: what looks like an interaction may be noise between seeds."
    return Importance(
        named, noise, "what noise between seeds alone would give", _title(metric), f"{caption}"
    )


def _title(metric: str) -> str:
    return f"Share of the variation of {metric}"


def _of_forest(
    study: optuna.Study, varied: list[str], complete: list[Result], metric: str
) -> Importance | str:
    count = len(complete)
    if count < FEWEST_TRIALS:
        return (
            f"{count} complete trials that are no full grid cannot tell which parameter matters "
            f"(a grid can, or {FEWEST_TRIALS} trials)"
        )
    values = {trial.number: trial.values[0] for trial in complete}
    estimate = _forest(study, varied, values)
    rng = np.random.default_rng(0)
    chance = dict.fromkeys(varied, 0.0)
    for _ in range(SHUFFLES):
        shuffled = rng.permutation(list(values.values()))
        by_chance = _forest(study, varied, dict(zip(values, shuffled, strict=True)))
        chance = {name: max(chance[name], by_chance[name]) for name in varied}
    if not any(estimate[name] > chance[name] for name in varied):
        return (
            f"{count} trials cannot tell which parameter matters: the same values in shuffled "
            "order give as much"
        )
    return Importance(
        estimate,
        chance,
        f"the most that {SHUFFLES} shuffles of the values gave: below it, it may be chance",
        f"Estimated share of the variation of {metric}",
        f"A forest's estimate (fANOVA) from {count} trials; what is missing from 100% are "
        "interactions\nand what the forest cannot see: it does not tell them apart.",
    )


def _forest(study: optuna.Study, varied: list[str], values: dict[int, float]) -> dict[str, float]:
    shares = optuna.importance.get_param_importances(
        study,
        params=varied,
        target=lambda trial: values[trial.number],
        evaluator=optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0),
        normalize=False,
    )
    return {name: float(shares[name]) for name in varied}
