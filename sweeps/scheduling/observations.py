"""What learning curves tell an extrapolation: log values at common fractions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sft.sweeps.scheduling.curves import WHOLE, Curve, State

CAP = 0.10
"""Log excess up to which cells are told apart, as in the published prior."""


@dataclass(frozen=True)
class Observations:
    """Log values of trials at fractions."""

    trial: np.ndarray  # [n] places among the trials
    fraction: np.ndarray  # [n]
    value: np.ndarray  # [n]


def observe(trials: Sequence[Curve]) -> Observations:
    """The log values of trials at the fractions where some trial stands.

    Log values that are far above the best of their fraction are drawn nearer: how bad a bad trial
    is says little of the good ones. A diverged trial counts as one that is far above everywhere.
    """
    alive = [t for t in trials if t.state is not State.DIVERGED]
    fractions = sorted({1.0, *(t.fraction for t in alive if 0 < t.fraction < WHOLE)})
    rows = [
        (place, fraction, known)
        for place, trial in enumerate(trials)
        if trial.state is not State.DIVERGED
        for fraction in fractions
        if (known := trial.at(fraction)) is not None
    ]
    place = np.array([row[0] for row in rows], int)
    fraction = np.array([row[1] for row in rows], float)
    value = np.array([row[2] for row in rows], float)
    value = np.log(value) if (value > 0).all() else scaled(value)
    best = {f: value[fraction == f].min() for f in set(fraction.tolist())}
    excess = value - np.array([best[f] for f in fraction.tolist()])
    cap = max(CAP, 2 * float(np.median(excess))) if len(excess) else CAP
    value = value - np.maximum(0.0, excess - compressed(excess, cap))
    worst = [
        (place, f, best[f] + 2 * cap)
        for place, trial in enumerate(trials)
        if trial.state is State.DIVERGED
        for f in sorted({min(best), max(best)} if best else ())
    ]
    return Observations(
        np.concatenate([place, np.array([row[0] for row in worst], int)]),
        np.concatenate([fraction, np.array([row[1] for row in worst], float)]),
        np.concatenate([value, np.array([row[2] for row in worst], float)]),
    )


def compressed(excess: np.ndarray, cap: float) -> np.ndarray:
    """Above `cap` an excess grows with its logarithm alone."""
    return np.where(excess <= cap, excess, cap * (1 + np.log(np.maximum(excess, cap) / cap)))


def scaled(value: np.ndarray) -> np.ndarray:
    """Values that have no logarithm, so that half of them lie within a tenth."""
    spread = float(np.subtract(*np.percentile(value, [75, 25]))) or 1.0
    return value / spread * CAP


def unlike(parameters: Sequence[Mapping[str, object]], fresh: int) -> np.ndarray:
    """[trials + fresh, trials + fresh]: how alike trials are in parameters but rate and rank.

    1 for the same values, less the further apart they are; a trial not started yet is like none.
    """
    n = len(parameters)
    distance = np.zeros((n, n))
    names = {name for p in parameters for name in p} - {"lr", "lora.rank"}
    for name in sorted(names):
        values = [p.get(name) for p in parameters]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == n and n and max(numbers) > min(numbers):
            x = np.array(numbers, float)
            x = np.log(x) if x.min() > 0 and x.max() > 10 * x.min() else x
            distance += np.abs(x[:, None] - x[None, :]) / (x.max() - x.min())
        else:
            distance += np.array([[float(a != b) for b in values] for a in values]).reshape(n, n)
    alike = np.eye(n + fresh)
    alike[:n, :n] = np.exp(-2 * distance)
    if not distance.any():
        alike[:] = 1.0
    return alike
