"""Which parameters a metric's variation comes from, if the trials of a study can tell.

The variation of a full grid is split exactly, interactions included (see `variation`). For other
trials nothing is drawn. Optuna's estimate (fANOVA by a forest of trees) gave shares of up to 90% to
values in shuffled order, with as few trials as sweeps have, and never tells of an interaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sft.sweeps.findings.results import Result, Results
from sft.sweeps.findings.variation import Shares, cells_of, of_grid

MOST_BARS = 8


@dataclass
class Importance:
    """Shares of the variation, what chance gives instead, and what the figure says of itself."""

    shares: dict[str, float]
    noise: dict[str, float] | None  # what chance between seeds alone would give
    title: str
    caption: str


def importance(results: Results) -> Importance | str | None:
    """The shares, or a sentence that says why there are none; None if nothing is asked.

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
    return (
        f"not split among {', '.join(varied)}: only a full grid of complete trials tells exactly, "
        "and an estimate from these may be as large by chance"
    )


def _repeats(varied: list[str], trials: list[Result]) -> dict[tuple, list[float]] | None:
    """Each combination's repeats; None if there are none, or not of the same seeds for all."""
    found = {tuple(t.params.get(n) for n in varied): t.repeats for t in trials}
    seeds = {tuple(trial.seeds) for trial in trials}
    return found if len(seeds) == 1 and seeds != {()} and len(found) == len(trials) else None


def _of_grid(shares: Shares, missing: int, metric: str) -> Importance:
    named = _named(shares.shares)
    noise = None if shares.noise is None else _named(shares.noise)
    if len(named) > MOST_BARS:
        shown = sorted(named, key=named.__getitem__, reverse=True)[: MOST_BARS - 1]
        for values in (named, noise or {}):
            rest = sum(value for name, value in values.items() if name not in shown)
            for name in [name for name in values if name not in shown]:
                del values[name]
            values["the rest"] = rest
    caption = f"Exact for the {shares.cells} combinations of the grid"
    if missing:
        caption += f" of complete trials (trials left out: {missing})"
    if noise is None:
        caption += ".\nOne run each: what looks like an interaction may be noise between seeds."
    return Importance(named, noise, f"Share of the variation of {metric}", caption)


def _named(shares: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    return {" x ".join(names): share for names, share in shares.items()}
