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

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from sft.prior.published import Cell
from sft.sweeps.scheduling.curves import Curve, State
from sft.sweeps.scheduling.observations import observe, unlike

SHIFTS = np.arange(-1.5, 1.501, 0.25)
"""Decades by which the surface may be moved along the learning rate."""
SHIFT_SCALE = 0.25
STRETCHES = np.array([0.5, 1.0, 2.5, 6.0, 15.0])
"""Factors on all sizes: some data tell learning rates apart much more than the published ones."""
STRETCH_SCALE = 0.8
"""Standard deviation of the logarithm."""
DRIFTS = (0.0, 0.3)
"""Decades by which the best learning rate rises from the start of training to its end."""
DRIFT_SIZES = (0.03, 0.06, 0.12)
"""Standard deviation of the drift from the start to the end, log value."""
RATE_LENGTH, RANK_LENGTH = 0.6, 8.0
"""Over which it changes: decades of learning rate, octaves of rank."""
NOISES = (0.002, 0.006, 0.02)
"""Standard deviation of a trial's final log value about its cell's."""
OTHERS_SIZE = 0.02
"""Of what parameters other than learning rate and rank do, log value."""
LEVEL, LEVEL_MOVES = 3.0, 1.0
"""How little is known of the level, and of its change between two fractions, log value."""
JITTER = 1e-9
SETTINGS = list(itertools.product(SHIFTS.tolist(), DRIFTS, NOISES, DRIFT_SIZES))
"""What is averaged over, beside the stretch."""


Surface = Callable[[Sequence[Cell], float], tuple[np.ndarray, np.ndarray]]
"""What published sweeps say of cells, if the best learning rate lies so many decades higher: mean
[cells] and covariance [cells, cells] of their log excess."""


class Extrapolation:
    """Final log values of trials and of cells without a trial.

    Args:
        surface: what is published of the excess.
    """

    def __init__(self, surface: Surface):
        self._surface = surface

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
            trials: that have not failed. A diverged one ends at infinity.
            cells: [trials], theirs.
            fresh: cells for trials not started yet.
        """
        seen = observe(trials)
        every = [*cells, *fresh]
        points = _Points(
            place=np.concatenate([seen.trial, np.arange(len(every))]),
            fraction=np.concatenate([seen.fraction, np.ones(len(every))]),
            cells=every,
            others=unlike([t.parameters for t in trials], len(fresh)),
        )
        surfaces = self._surfaces(points)
        weights = _weights(surfaces, points, seen.value)
        counts = rng.multinomial(count, weights.ravel()).reshape(weights.shape)
        draws = [
            _draw(
                rng, *_given(surfaces, points, seen.value, SETTINGS[i], STRETCHES.item(j)), int(n)
            )
            for (i, j), n in np.ndenumerate(counts)
            if n
        ]
        drawn = np.concatenate(draws)
        for place, trial in enumerate(trials):  # what is known is known
            if trial.final is not None:
                drawn[:, place] = seen.value[(seen.trial == place) & (seen.fraction == 1.0)][0]
            elif trial.state is State.DIVERGED:
                drawn[:, place] = np.inf
        return drawn

    def _surfaces(self, points: "_Points") -> "_Surfaces":
        """Prior mean [points] and covariance [points, points] by (shift, drift)."""
        moved = {drift: points.moved(drift) for drift in DRIFTS}
        every = sorted({cell for cells in moved.values() for cell in cells})
        places = {cell: place for place, cell in enumerate(every)}
        surfaces = {}
        for shift in SHIFTS.tolist():
            mean, covariance = self._surface(every, shift)
            for drift, cells in moved.items():
                at = np.array([places[cell] for cell in cells])
                surfaces[shift, drift] = mean[at], covariance[np.ix_(at, at)]
        return surfaces


_Surfaces = dict[tuple[float, float], tuple[np.ndarray, np.ndarray]]


class _Points:
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
        self.place, self.fraction, self.cells = place, fraction, cells
        self.level = LEVEL**2 + LEVEL_MOVES**2 * (fraction[:, None] == fraction[None, :])
        rest = remaining(np.maximum(fraction[:, None], fraction[None, :]))
        rate = np.log10([cell[0] for cell in cells])[place]
        rank = np.log2([cell[1] for cell in cells])[place]
        near = np.exp(
            -0.5 * ((rate[:, None] - rate[None, :]) / RATE_LENGTH) ** 2
            - 0.5 * ((rank[:, None] - rank[None, :]) / RANK_LENGTH) ** 2
        )
        self._others = OTHERS_SIZE**2 * others[np.ix_(place, place)]
        self._drift = near * rest
        self._own = (place[:, None] == place[None, :]) * (1 + 4 * rest)

    def spread(self, noise: float, size: float, n: int | None = None) -> np.ndarray:
        """Covariance of drift, noise and other parameters; of the first n points."""
        part = (slice(n), slice(n))
        return self._others[part] + self._own[part] * noise**2 + self._drift[part] * size**2

    def moved(self, drift: float) -> list[Cell]:
        """[points]: before its decay, a rate looks as a higher one will look at the end."""
        pairs = zip(self.place.tolist(), self.fraction.tolist(), strict=True)
        cells = ((self.cells[place], 10 ** (drift * (1 - f))) for place, f in pairs)
        return [(float(f"{rate * factor:.6g}"), rank) for (rate, rank), factor in cells]


def remaining(fraction: np.ndarray) -> np.ndarray:
    """Share of the drift's variance that is still to come from a fraction on.

    Most of it comes early: a quarter is left at 0.4 of a schedule.
    """
    return (1 - fraction) * 0.3 / (fraction + 0.3)


def _weights(surfaces: _Surfaces, points: _Points, value: np.ndarray) -> np.ndarray:
    """[settings, stretches]: posterior probabilities."""
    n = len(value)
    weights = np.add.outer(
        [-np.log1p((shift / SHIFT_SCALE) ** 2) for shift, *_ in SETTINGS],  # Cauchy
        -0.5 * (np.log(STRETCHES) / STRETCH_SCALE) ** 2,
    )
    means = np.array([surfaces[shift, drift][0][:n] for shift, drift, _, _ in SETTINGS])
    covariances = np.array(
        [
            surfaces[shift, drift][1][:n, :n] + points.spread(noise, size, n)
            for shift, drift, noise, size in SETTINGS
        ]
    )
    level = points.level[:n, :n] + JITTER * np.eye(n)
    for j, stretch in enumerate(STRETCHES):
        factor = np.linalg.cholesky(stretch**2 * covariances + level)
        residual = np.linalg.solve(factor, (value - stretch * means)[:, :, None])[:, :, 0]
        diagonal = np.log(np.diagonal(factor, axis1=1, axis2=2))
        weights[:, j] -= 0.5 * (residual**2).sum(axis=1) + diagonal.sum(axis=1)
    weights = np.exp(weights - weights.max())
    return weights / weights.sum()


def _given(
    surfaces: _Surfaces,
    points: _Points,
    value: np.ndarray,
    setting: tuple[float, float, float, float],
    stretch: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the points behind the first len(value), given those."""
    n = len(value)
    shift, drift, noise, size = setting
    mean, covariance = surfaces[shift, drift]
    mean = stretch * mean
    covariance = stretch**2 * (covariance + points.spread(noise, size)) + points.level
    factor = np.linalg.cholesky(covariance[:n, :n] + JITTER * np.eye(n))
    solved = np.linalg.solve(factor, np.column_stack([value - mean[:n], covariance[:n, n:]]))
    residual, gain = solved[:, 0], solved[:, 1:]
    return mean[n:] + gain.T @ residual, covariance[n:, n:] - gain.T @ gain


def _draw(
    rng: np.random.Generator, mean: np.ndarray, covariance: np.ndarray, count: int
) -> np.ndarray:
    factor = np.linalg.cholesky(covariance + 1e-7 * np.eye(len(mean)))
    return mean + rng.standard_normal((count, len(mean))) @ factor.T
