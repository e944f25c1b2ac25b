"""What published sweeps say about a model that is not among them: a prior over its response.

The response is the *excess* of a cell (learning rate, rank): log NLL above the model's best
one, capped once training as good as diverges. It is modelled as a multi-task Gaussian
process (Bonilla et al. 2007, "Multi-task Gaussian Process Prediction"; Swersky et al. 2013,
"Multi-Task Bayesian Optimization"): one surface that the models share, over log learning
rate, log rank and log model size, and on top of it a smaller one of each model's own.

Another family of models, other data or another length of training mostly moves the best
learning rate. So a new model's surface may be shifted along that axis. By how much is unknown:
it has a heavy-tailed (Cauchy) prior and is learned from the trials. This is how a wrong prior is
noticed, and left, within a trial or two.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from sweeps.prior.published import Cell, Table

CAP = 0.10  # excess, log NLL: what is worse by more than a tenth, or diverged, looks the same
SHIFTS = np.arange(-1.5, 1.501, 0.125)  # decades of learning rate
# Best rates of published models lie between 3e-4 and 1e-3, half a decade: half of that to
# either side of the middle.
SHIFT_SCALE = 0.25
OFFSET = 3.0  # log NLL: how little is known of a new model's level before its first result
DEFAULT_PARAMETERS = 30.0  # billions, if a model's name does not tell


@dataclass(frozen=True)
class Hyperparameters:
    """Of the kernel. Amplitudes in log NLL; lengths in decades of rate, octaves of rank and
    decades of model size. `benchmarks/warm_start.py` fits them (on Qwen3 and Qwen3-VL)."""

    shared: float = 0.05
    shared_rate: float = 0.5
    shared_rank: float = 3.0
    shared_size: float = 1.0
    own: float = 0.01
    own_rate: float = 0.5
    own_rank: float = 3.0
    noise: float = 0.002


# What `fit` finds on the Qwen3 and Qwen3-VL tables; `benchmarks/warm_start.py --fit` prints it.
PUBLISHED = Hyperparameters(
    shared=0.0396,
    shared_rate=0.451,
    shared_rank=13.4,
    shared_size=3.64,
    own=0.00612,
    own_rate=0.731,
    own_rank=31.0,
    noise=0.00215,
)


def _matern(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """Matérn 5/2 covariance of two vectors of points (Rasmussen & Williams 2006, eq. 4.17)."""
    distance = math.sqrt(5) / length * np.abs(a[:, None] - b[None, :])
    return (1 + distance + distance**2 / 3) * np.exp(-distance)


class Prior:
    """The surface of a model that is not among `tables`, before and after some of its trials.

    Outside the published rates and ranks the response is taken as at the nearest published
    ones: beyond the highest rate it diverges, below the lowest it is as slow.
    """

    def __init__(self, tables: Sequence[Table], hyperparameters: Hyperparameters = PUBLISHED):
        self._h = hyperparameters
        cells = [cell for table in tables for cell in table.nll]
        self._low = np.array([min(c[0] for c in cells), min(c[1] for c in cells)], float)
        self._high = np.array([max(c[0] for c in cells), max(c[1] for c in cells)], float)
        self._x = np.concatenate([self._points(list(t.nll), t.parameters) for t in tables])
        self._task = np.repeat(np.arange(len(tables)), [len(t.nll) for t in tables])
        excess = [
            min(math.log(v / t.best), CAP) if v < math.inf else CAP
            for t in tables
            for v in t.nll.values()
        ]
        same = self._task[:, None] == self._task[None, :]
        covariance = self._shared(self._x, self._x) + same * self._own(self._x, self._x)
        covariance += self._h.noise**2 * np.eye(len(cells))
        self._factor = np.linalg.cholesky(covariance)
        self._whiten = np.linalg.inv(self._factor)  # once: every proposal multiplies with it
        self._residual = self._whiten @ np.array(excess)

    @property
    def log_likelihood(self) -> float:
        """Of the published excesses, up to a constant."""
        return float(-0.5 * self._residual @ self._residual - _half_log_det(self._factor))

    def _points(
        self, cells: Sequence[Cell], parameters: float | None, shift: float = 0.0
    ) -> np.ndarray:
        """[cells, 3]: log10 rate, log2 rank, log10 size."""
        rates = np.array([c[0] for c in cells], float) / 10**shift
        ranks = np.array([c[1] for c in cells], float)
        return np.stack(
            [
                np.log10(np.clip(rates, self._low[0], self._high[0])),
                np.log2(np.clip(ranks, self._low[1], self._high[1])),
                np.full(len(cells), math.log10(parameters or DEFAULT_PARAMETERS)),
            ],
            axis=1,
        )

    def _shared(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        h = self._h
        return (
            h.shared**2
            * _matern(a[:, 0], b[:, 0], h.shared_rate)
            * _matern(a[:, 1], b[:, 1], h.shared_rank)
            * _matern(a[:, 2], b[:, 2], h.shared_size)
        )

    def _own(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rate = _matern(a[:, 0], b[:, 0], self._h.own_rate)
        return self._h.own**2 * rate * _matern(a[:, 1], b[:, 1], self._h.own_rank)

    def before(
        self, cells: Sequence[Cell], parameters: float | None, shift: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean [cells] and covariance [cells, cells] of a new model's excess."""
        x = self._points(cells, parameters, shift)
        known = self._whiten @ self._shared(self._x, x)
        covariance = self._shared(x, x) + self._own(x, x) - known.T @ known
        return known.T @ self._residual, covariance

    def expected(self, cells: Sequence[Cell], parameters: float | None) -> np.ndarray:
        """[cells]: expected excess of a new model before its first trial, log NLL, capped.

        It is an average over all the places that the best rate may have. A rate too high costs far
        more than one too low, so the least expected excess lies on the careful side.
        """
        surfaces = self.sample(cells, [], parameters, np.random.default_rng(0), 2000)
        return np.minimum(surfaces - surfaces.min(axis=1, keepdims=True), CAP).mean(axis=0)

    def sample(
        self,
        cells: Sequence[Cell],
        trials: Sequence[tuple[Cell, float]],
        parameters: float | None,
        rng: np.random.Generator,
        count: int,
    ) -> np.ndarray:
        """[count, cells]: surfaces drawn from what is known after `trials`.

        A trial is a cell and its NLL, inf if it diverged.
        """
        posteriors, evidences = [], []
        for shift in SHIFTS:
            mean, covariance = self.before(
                [*cells, *(cell for cell, _ in trials)], parameters, shift
            )
            evidence = -math.log1p((shift / SHIFT_SCALE) ** 2)  # Cauchy
            if trials:
                mean, covariance, fit = self._given(mean, covariance, trials)
                evidence += fit
            posteriors.append((mean, covariance))
            evidences.append(evidence)
        weights = np.exp(np.array(evidences) - max(evidences))
        counts = rng.multinomial(count, weights / weights.sum())
        return np.concatenate(
            [_draw(rng, *p, n) for p, n in zip(posteriors, counts, strict=True) if n]
        )

    def _given(
        self, mean: np.ndarray, covariance: np.ndarray, trials: Sequence[tuple[Cell, float]]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean and covariance of the other points given the last len(trials), and the log evidence.

        A finite NLL tells its excess up to the model's unknown level. A diverged trial tells that
        its excess is CAP.
        """
        n = len(trials)
        nll = np.array([value for _, value in trials])
        finite = np.isfinite(nll)
        level = np.log(nll[finite].min()) if finite.any() else 0.0
        excess = np.full(n, CAP)
        excess[finite] = np.minimum(np.log(nll[finite]) - level, CAP)
        observed = covariance[-n:, -n:] + OFFSET**2 * np.outer(finite, finite)
        # The noise of a new setting is not known to be as small as the published ones'.
        factor = np.linalg.cholesky(observed + (1.5 * self._h.noise) ** 2 * np.eye(n))
        residual = np.linalg.solve(factor, excess - mean[-n:])
        gain = np.linalg.solve(factor, covariance[-n:, :-n])
        evidence = float(-0.5 * residual @ residual - _half_log_det(factor))
        return mean[:-n] + gain.T @ residual, covariance[:-n, :-n] - gain.T @ gain, evidence


def _half_log_det(factor: np.ndarray) -> float:
    return float(np.log(np.diag(factor)).sum())


def _draw(
    rng: np.random.Generator, mean: np.ndarray, covariance: np.ndarray, count: int
) -> np.ndarray:
    factor = np.linalg.cholesky(covariance + 1e-8 * np.eye(len(mean)))
    return mean + rng.standard_normal((count, len(mean))) @ factor.T


def fit(tables: Sequence[Table]) -> Hyperparameters:
    """Maximum a posteriori hyperparameters, with a weak log-normal prior at the defaults of
    a textbook surface (lengths of half a decade and three octaves)."""
    from scipy.optimize import minimize  # slow to import, and only benchmarks fit

    start = np.log(astuple(Hyperparameters()))

    def loss(theta: np.ndarray) -> float:
        try:
            prior = Prior(tables, Hyperparameters(*np.exp(np.clip(theta, -10, 4)).tolist()))
        except np.linalg.LinAlgError:
            return 1e9
        return -prior.log_likelihood + 0.05 * float(((theta - start) ** 2).sum())

    found = minimize(loss, start, method="L-BFGS-B").x
    return Hyperparameters(*(float(f"{value:.3g}") for value in np.exp(found)))
