"""Where learning curves end: final values of all trials, and of cells without one, as draws.

Freeze-thaw (Swersky et al. 2014) asks what a paused trial would end with. Here log values are
modelled by one Gaussian process over cells (learning rate, rank) and fractions of the schedule:

    log value(trial, f) = level(f) + excess(cell) + drift(cell, f) + own(trial, f)

- `level(f)`: what all trials share at a fraction, data order and held-out rows among it. Nothing is
  assumed of it, so no form of a curve is. Trials are compared at the same fraction; complete ones
  tell how the fractions hang together.
- `excess(cell)`: the final surface. It has the prior of published sweeps, shifted along the
  learning rate by an unknown amount and stretched by an unknown factor.
- `drift(cell, f)`: by how much the order of cells at f still changes until the end. It is smooth
  in the learning rate: what decay still gives to a high rate, it gives to its neighbour. It is
  learned from the trials that got further.
- `own(trial, f)`: noise of one trial.

Drift and noise are Brownian motions that run backwards from the end: what happens after f is
independent of what happened before. Shift, stretch, size and direction of the drift and noise are
not fitted but averaged over, each with its evidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sweeps.scheduling.curves import WHOLE, Curve, State

Cell = tuple[float, int]
"""A learning rate and a LoRA rank."""

CAP = 0.10
"""Log excess up to which the prior tells cells apart."""
SHIFTS = np.arange(-1.5, 1.501, 0.25)
"""Decades of learning rate."""
SHIFT_SCALE = 0.25
STRETCHES = np.array([0.5, 1.0, 2.5, 6.0])
"""Factors on the published excess: some data tell learning rates apart much more than others."""
DRIFTS = (0.0, 0.3)
"""Decades by which the best learning rate still rises from the start of the decay to its end."""
NOISES = (0.002, 0.008)
"""Standard deviation of a trial's final log value about its cell's, for a stretch of 1."""
NO_NOISE = np.zeros(len(NOISES))
STRETCH_SCALE = 0.8
LEVEL, LEVEL_MOVES = 3.0, 1.0
RATE_LENGTH, RANK_LENGTH = 0.6, 8.0
"""Of the drift: decades of learning rate, octaves of rank."""
DRIFT_SIZE = 0.03
"""Standard deviation of the drift at the start, for a stretch of 1."""
OTHERS_SIZE = 0.02
"""Of what parameters other than learning rate and rank do, for a stretch of 1."""
JITTER = 1e-9


class Prior(Protocol):
    """What published sweeps say of the excess of cells."""

    def before(
        self, cells: Sequence[Cell], parameters: float | None, shift: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean [cells] and covariance [cells, cells] of a model's excess."""
        ...


@dataclass(frozen=True)
class Observations:
    """Log values of trials at fractions."""

    trial: np.ndarray  # [n] places among the trials
    fraction: np.ndarray  # [n]
    value: np.ndarray  # [n]


class Extrapolation:
    """Final log values of trials and of cells without a trial.

    Args:
        prior: of the excess.
        size: billions of parameters of the model, None if unknown.
    """

    def __init__(self, prior: Prior, size: float | None):
        self._prior = prior
        self._size = size
        self._places: dict[Cell, int] = {}  # of the cells that the prior was asked for
        self._surfaces: list[tuple[np.ndarray, np.ndarray]] = []  # for each shift

    def draw(
        self,
        trials: Sequence[Curve],
        cells: Sequence[Cell],
        fresh: Sequence[Cell],
        rng: np.random.Generator,
        count: int,
    ) -> np.ndarray:
        """[count, trials + fresh]: joint draws of final log values, up to a common constant.

        Args:
            trials: that have not failed.
            cells: [trials], theirs.
            fresh: cells for trials not started yet.
        """
        seen = observe(trials)
        n, every = len(seen.value), [*cells, *fresh]
        others = unlike([dict(t.parameters) for t in trials], len(fresh))
        points = Points(
            place=np.concatenate([seen.trial, np.arange(len(every))]),
            fraction=np.concatenate([seen.fraction, np.ones(len(every))]),
            cells=every,
            others=others,
        )
        # [shifts * drifts * noises, points] and [.., points, points]
        mean, covariance = self._before(points)
        weights = np.add.outer(
            np.add.outer(np.repeat(-np.log1p((SHIFTS / SHIFT_SCALE) ** 2), len(DRIFTS)), NO_NOISE),
            -0.5 * (np.log(STRETCHES) / STRETCH_SCALE) ** 2,
        ).reshape(len(mean), len(STRETCHES))
        level = LEVEL**2 + LEVEL_MOVES**2 * points.same_time[:n, :n] + JITTER * np.eye(n)
        factors = []
        for j, stretch in enumerate(STRETCHES):
            factor = np.linalg.cholesky(stretch**2 * covariance[:, :n, :n] + level)
            residual = np.linalg.solve(factor, (seen.value - stretch * mean[:, :n])[:, :, None])
            diagonal = np.log(np.diagonal(factor, axis1=1, axis2=2))
            weights[:, j] -= 0.5 * (residual[:, :, 0] ** 2).sum(axis=1) + diagonal.sum(axis=1)
            factors.append(factor)
        weights = np.exp(weights - weights.max())
        counts = rng.multinomial(count, (weights / weights.sum()).ravel()).reshape(weights.shape)
        draws = []
        for i, j in zip(*np.nonzero(counts), strict=True):
            m, c = STRETCHES[j] * mean[i], STRETCHES[j] ** 2 * covariance[i]
            # The level at the end is known where a trial is complete; else it is common to all.
            cross = c[:n, n:] + LEVEL**2 + LEVEL_MOVES**2 * points.same_time[:n, n:]
            solved = np.linalg.solve(factors[j][i], np.column_stack([seen.value - m[:n], cross]))
            residual, gain = solved[:, 0], solved[:, 1:]
            c = c[n:, n:] + LEVEL**2 + LEVEL_MOVES**2 - gain.T @ gain
            draws.append(_draw(rng, m[n:] + gain.T @ residual, c, counts[i, j]))
        drawn = np.concatenate(draws)
        for place, trial in enumerate(trials):  # what is known is known
            if trial.final is not None:
                drawn[:, place] = seen.value[(seen.trial == place) & (seen.fraction == 1.0)][0]
        return drawn

    def _before(self, points: "Points") -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance for a stretch of 1, without the level: a row for each setting."""
        own = [
            points.same_trial * (noise**2 + remaining(points.later, 2 * noise)) for noise in NOISES
        ]
        shared = OTHERS_SIZE**2 * points.others[
            np.ix_(points.place, points.place)
        ] + points.near * remaining(points.later, DRIFT_SIZE)
        moved = [points.moved(drift) for drift in DRIFTS]
        if not self._places.keys() >= {cell for cells in moved for cell in cells}:
            grown = {
                cell
                for f in set(points.fraction.tolist())
                for drift in DRIFTS
                for cell in points.moved_to(f, drift)
            }
            every = sorted(grown)
            self._places = {cell: i for i, cell in enumerate(every)}
            self._surfaces = [self._prior.before(every, self._size, s) for s in SHIFTS.tolist()]
        means, covariances = [], []
        at = [np.array([self._places[cell] for cell in cells]) for cells in moved]
        for mean, covariance in self._surfaces:
            for index in at:
                for noise in own:
                    means.append(mean[index])
                    covariances.append(covariance[np.ix_(index, index)] + shared + noise)
        return np.array(means), np.array(covariances)


class Points:
    """Where log values are known, and then where they are asked for.

    Args:
        place: [points] of the trial or fresh cell.
        fraction: [points] of the schedule.
        cells: of all places.
        others: [places, places], how alike they are in other parameters.
    """

    def __init__(
        self, place: np.ndarray, fraction: np.ndarray, cells: Sequence[Cell], others: np.ndarray
    ):
        self.place, self.fraction, self.cells, self.others = place, fraction, cells, others
        self.same_trial = place[:, None] == place[None, :]
        self.same_time = fraction[:, None] == fraction[None, :]
        self.later = np.maximum(fraction[:, None], fraction[None, :])
        rate = np.log10([cell[0] for cell in cells])[place]
        rank = np.log2([cell[1] for cell in cells])[place]
        self.near = np.exp(
            -0.5 * ((rate[:, None] - rate[None, :]) / RATE_LENGTH) ** 2
            - 0.5 * ((rank[:, None] - rank[None, :]) / RANK_LENGTH) ** 2
        )

    def moved(self, drift: float) -> list[Cell]:
        """[points]: before its decay, a rate looks as a higher one will look at the end."""
        pairs = zip(self.place.tolist(), self.fraction.tolist(), strict=True)
        return [_moved(self.cells[place], f, drift) for place, f in pairs]

    def moved_to(self, fraction: float, drift: float) -> list[Cell]:
        """All cells, as they look at one fraction."""
        return [_moved(cell, fraction, drift) for cell in self.cells]


def _moved(cell: Cell, fraction: float, drift: float) -> Cell:
    return float(f"{cell[0] * 10 ** (drift * (1 - fraction)):.5g}"), cell[1]


def remaining(fraction: np.ndarray, size: float) -> np.ndarray:
    """Variance that is still to come from a fraction to the end: most of it comes early."""
    return size**2 * (1 - fraction) * 0.3 / (fraction + 0.3)


def observe(trials: Sequence[Curve]) -> Observations:
    """The log values of trials at the fractions where some trial stands.

    Log values that are far above the best of their fraction are drawn nearer: how bad a bad trial
    is says little of the good ones. A diverged trial counts as one that ended far above.
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
    worst = best.get(1.0, 0.0) + 2 * cap
    diverged = [p for p, trial in enumerate(trials) if trial.state is State.DIVERGED]
    if 1.0 not in best:  # nothing is known of the end yet that they could be compared with
        diverged = []
    return Observations(
        np.concatenate([place, np.array(diverged, int)]),
        np.concatenate([fraction, np.ones(len(diverged))]),
        np.concatenate([value, np.full(len(diverged), worst)]),
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


def _draw(
    rng: np.random.Generator, mean: np.ndarray, covariance: np.ndarray, count: int
) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean + rng.standard_normal((count, len(mean))) @ root.T
