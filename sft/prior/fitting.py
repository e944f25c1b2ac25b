"""The fit to published tables: each model's numbers, and how they go with size and family.

A model's three numbers (`surface.py`) are drawn from a population: a line over the logarithms of
its total and its active parameters, a deviation of its family, one of its own. Numbers and
population are fitted in turns: the numbers by least squares with the population as their prior, the
population by its marginal likelihood, given how well each table tells its numbers (empirical Bayes
with Laplace's approximation; Lindstrom & Bates 1990, "Nonlinear mixed effects models").
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache, cached_property

import numpy as np

from sft.prior.names import Size, family_of, size_of
from sft.prior.published import Table
from sft.prior.surface import Shape, axes, compared, losses

TYPICAL = Size(20.0, 20.0)
"""Where lines over size are centred, and the size of a model whose name tells none."""
ROUNDS, SETTLED = 40, 0.01
"""At most so many, until no number of the shape changes by more than this."""

# What is held for likely of each of a model's numbers before any table: weak, and the only
# constants of the fit. Natural logarithms of slope and benefit, decades of rate.
MIDDLE = np.array([math.log(0.04), -3.3, math.log(0.01)])
MIDDLE_SPREAD = np.array([1.5, 1.0, 2.0])
BY_SIZE_SPREAD = np.array([0.35, 0.2, 0.5])  # of the change with ten times the parameters
DEVIATION = np.array([0.3, 0.15, 0.4])  # of a family and of a model, within a factor of e
SHAPE, SHAPE_SPREAD = np.array(astuple(Shape())), np.array([1.0, 0.5, 0.3])
NOISE, NOISE_WEIGHT = 0.01, 10  # on the scale of `compared`; worth that many cells


@dataclass(frozen=True)
class Line:
    """How one number goes with size and family, given the numbers of published models."""

    which: int
    """SLOPE, RATE or BENEFIT."""
    sizes: np.ndarray
    """[models, 2] of `features`."""
    families: tuple[str | None, ...]
    of_family: float
    """Standard deviation of a family from the line."""
    of_model: float
    """And of a model from its family."""
    numbers: np.ndarray
    """[models]: what each published model's table alone tells."""
    variances: np.ndarray
    """[models]: and how well."""

    @cached_property
    def covariance(self) -> np.ndarray:
        """[models, models]: of the published models' numbers."""
        known = _by_size(self.which, self.sizes, self.sizes)
        known += self.of_family**2 * _same(self.families)
        return known + np.diag(self.of_model**2 + self.variances)

    @cached_property
    def weights(self) -> np.ndarray:
        """[models]: its inverse times their distances from the middle."""
        return np.linalg.solve(self.covariance, self.numbers - MIDDLE[self.which])

    def at(self, model: str) -> tuple[float, float]:
        """Mean and variance of a model that is not published, by its name."""
        size, family = features(model)[None], family_of(model)
        same = np.array([family is not None and family == other for other in self.families])
        common = _by_size(self.which, self.sizes, size)[:, 0] + self.of_family**2 * same
        own = _by_size(self.which, size, size)[0, 0] + self.of_family**2 + self.of_model**2
        mean = MIDDLE[self.which] + common @ self.weights
        return float(mean), float(own - common @ np.linalg.solve(self.covariance, common))


@dataclass(frozen=True)
class Fitted:
    """What tables say of the models that are not among them."""

    shape: Shape
    lines: tuple[Line, ...]
    noise: float
    """Standard deviation of a table's cell about its model's surface, on the scale of
    `surface.compared`."""
    numbers: np.ndarray
    """[tables, 3]: those of the published models."""

    def known(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the three numbers of a model, by its name."""
        found = np.array([line.at(model) for line in self.lines])
        return found[:, 0], np.sqrt(found[:, 1])


def features(model: str) -> np.ndarray:
    """[2]: log10 of total and of active parameters, against a typical model's."""
    size = size_of(model) or TYPICAL
    return np.log10([size.total / TYPICAL.total, size.active / TYPICAL.active])


def fit(tables: Sequence[Table]) -> Fitted:
    """Fit shape, numbers and population to `tables`; of the packaged ones: `packaged_fit`."""
    from scipy.optimize import least_squares

    count = len(tables)
    sizes = np.stack([features(table.model) for table in tables])
    families = tuple(family_of(table.model) for table in tables)
    owner = np.repeat(np.arange(count), [len(table.nll) for table in tables])
    first = np.searchsorted(owner, np.arange(count))
    rates, ranks = axes([cell for table in tables for cell in table.nll])
    published = compared(
        np.concatenate([np.log(np.array(list(t.nll.values())) / t.best) for t in tables])
    )
    means = np.tile(MIDDLE, (count, 1))
    spreads = np.tile(math.sqrt(2) * DEVIATION, (count, 1))
    noise, values = 2 * NOISE, np.concatenate([means.ravel(), SHAPE])

    def residuals(values: np.ndarray) -> np.ndarray:
        numbers, shape = values[:-3].reshape(count, 3), values[-3:]
        loss = losses(numbers[owner], Shape(*shape), rates, ranks)
        excess = loss - np.minimum.reduceat(loss, first)[owner]
        return np.concatenate(
            [
                (compared(excess) - published) / noise,
                ((numbers - means) / spreads).ravel(),
                (shape - SHAPE) / SHAPE_SPREAD,
            ]
        )

    for _ in range(ROUNDS):
        before = values[-3:]
        found = least_squares(residuals, values, ftol=1e-3, max_nfev=15)
        values = found.x
        misfit = noise * found.fun[: len(owner)]
        free = max(len(owner) - 3 * count, 0)
        noise = math.sqrt((misfit @ misfit + NOISE_WEIGHT * NOISE**2) / (free + NOISE_WEIGHT))
        numbers = values[:-3].reshape(count, 3)
        variance = np.diag(np.linalg.inv(found.jac.T @ found.jac))[:-3].reshape(count, 3)
        # What a table alone tells: the estimate without its prior.
        precision = np.maximum(1 / variance - 1 / spreads**2, 1e-6)
        alone = (numbers / variance - means / spreads**2) / precision
        alone = np.where(precision < 0.01, means, alone)  # as good as nothing
        lines = [
            _line(which, sizes, families, alone[:, which], 1 / precision[:, which])
            for which in range(3)
        ]
        means = np.stack([_by_size_alone(line) for line in lines], axis=1)
        spreads = np.tile([math.hypot(line.of_family, line.of_model) for line in lines], (count, 1))
        if np.abs(values[-3:] - before).max() < SETTLED:
            break
    return Fitted(Shape(*values[-3:].tolist()), tuple(lines), noise, numbers)


def _by_size(which: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Prior covariance of a number's line between [n, 2] and [m, 2] sizes."""
    return MIDDLE_SPREAD[which] ** 2 + BY_SIZE_SPREAD[which] ** 2 * one @ other.T


@cache  # for it is asked for at every step of a fit
def _same(families: tuple[str | None, ...]) -> np.ndarray:
    """[models, models]: whether two are of one family."""
    same = np.array([[a == b and a is not None for b in families] for a in families])
    return same | np.eye(len(families), dtype=bool)


def _line(
    which: int,
    sizes: np.ndarray,
    families: tuple[str | None, ...],
    numbers: np.ndarray,
    variances: np.ndarray,
) -> Line:
    """The line of most marginal likelihood through numbers that are known with `variances`."""
    from scipy.optimize import minimize

    away = numbers - MIDDLE[which]

    def line(deviations: np.ndarray) -> Line:
        of_family, of_model = np.exp(deviations).tolist()
        return Line(which, sizes, families, of_family, of_model, numbers, variances)

    def loss(deviations: np.ndarray) -> float:
        factor = np.linalg.cholesky(line(deviations).covariance)
        residual = np.linalg.solve(factor, away)
        likely = (deviations - np.log(DEVIATION[which])) ** 2
        return float(0.5 * residual @ residual + np.log(np.diag(factor)).sum() + likely.sum() / 2)

    return line(minimize(loss, np.full(2, np.log(DEVIATION[which])), method="Nelder-Mead").x)


def _by_size_alone(line: Line) -> np.ndarray:
    """[models]: what size says of each published model's number, whatever its family."""
    return MIDDLE[line.which] + _by_size(line.which, line.sizes, line.sizes) @ line.weights
