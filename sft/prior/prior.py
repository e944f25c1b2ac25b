"""What is known of the loss over learning rate and rank of a model: before its trials, and after.

    prior = published()                  # or Prior(fit(tables)) of others
    prior.expected([(3e-4, 32), (1e-3, 32)], "Qwen/Qwen3-8B")     # before the first trial
    prior.sample(cells, [((3e-4, 32), 1.21)], "Qwen/Qwen3-8B", rng, 400)

Everything is in *excess*: log NLL above that of the best of the cells asked for, at most `CAP`
(0.10) once training as good as diverges. 0.01 is one percent of the NLL.

Before trials, a model's three numbers are as the fit says for its size and family. A trial tells
which of many draws of them are likely (importance sampling). One draw in ten is made for a setting
of another kind, in which the best rate may lie a decade or more away: this is how a wrong prior is
noticed, and left, within a few trials.
"""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sft.prior import packaged_fit
from sft.prior.fitting import Fitted, fit
from sft.prior.published import PACKAGED, Cell, load
from sft.prior.setting import PUBLISHED, Setting
from sft.prior.surface import CAP, OFFSET, RATE, axes, compared, losses

DRAWS = 20_000
ELSEWHERE = 0.1
"""The chance that a setting is of another kind than the published ones."""
ELSEWHERE_SPREAD = (1.0, 0.8, 1.0)
"""Of its numbers, about what is known of the model: log slope, decades of rate, log benefit."""
DEGREES_OF_FREEDOM = 4
"""Of the best rate's distribution (Student's t): its spread is learned from six families."""
NOISIER = 2.0
"""The noise of a new setting is not known to be as small as the published ones'."""

AS_GOOD_AS_NEVER = 20.0
"""Log odds against a best rate above one that diverged."""

Trial = tuple[Cell, float]
"""A cell and its final NLL in nats per token, inf if it diverged."""


class Prior:
    """The surface of a model that is not among the fitted ones.

    A model is its name, which tells its size and family; `setting` is the length and batch size of
    its runs.
    """

    def __init__(self, fitted: Fitted):
        self.fitted = fitted

    def expected(
        self, cells: Sequence[Cell], model: str, setting: Setting = PUBLISHED
    ) -> np.ndarray:
        """[cells]: the excess to expect before the first trial.

        It is an average over all the places that the best rate may have. A rate too high costs more
        than one too low, so the least expected excess lies on the careful side.
        """
        draws = _draws(np.random.default_rng(0), DRAWS // 5, *self._known(model, setting))
        return self._excess(cells, draws).mean(axis=0)

    def before(
        self, cells: Sequence[Cell], model: str, setting: Setting = PUBLISHED, shift: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean [cells] and covariance [cells, cells] of the excess before the first trial, if the
        best rate lies `shift` decades above what is known of the model."""
        mean, spread = self._known(model, setting)
        mean[RATE] += shift
        excess = self._excess(cells, _draws(np.random.default_rng(0), DRAWS // 5, mean, spread))
        return excess.mean(axis=0), np.cov(excess.T).reshape(len(cells), len(cells))

    def sample(
        self,
        cells: Sequence[Cell],
        trials: Sequence[Trial],
        model: str,
        rng: np.random.Generator,
        count: int,
        setting: Setting = PUBLISHED,
    ) -> np.ndarray:
        """[count, cells]: surfaces drawn from what is known after `trials` (which may be none)."""
        mean, spread = self._known(model, setting)
        half = DRAWS // 2
        draws = np.concatenate(
            [
                _draws(rng, half, mean, spread),
                _draws(rng, half, mean, np.hypot(spread, ELSEWHERE_SPREAD)),
            ]
        )
        weights = np.repeat(np.log([1 - ELSEWHERE, ELSEWHERE]), half)
        if trials:
            weights = weights + self._likelihood(draws, cells, trials)
        chances = np.exp(weights - weights.max())
        return self._excess(cells, draws[rng.choice(2 * half, count, p=chances / chances.sum())])

    def _known(self, model: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the model's numbers in `setting`."""
        mean, spread = self.fitted.known(model)
        mean[RATE] += setting.shift
        spread[RATE] = math.hypot(spread[RATE], setting.spread)
        return mean, spread

    def _excess(self, cells: Sequence[Cell], draws: np.ndarray) -> np.ndarray:
        """[draws, cells]."""
        loss = losses(draws[:, None], self.fitted.shape, *axes(cells))
        return np.minimum(loss - loss.min(axis=1, keepdims=True), CAP)

    def _likelihood(
        self, draws: np.ndarray, cells: Sequence[Cell], trials: Sequence[Trial]
    ) -> np.ndarray:
        """[draws]: log likelihood of `trials`, whose common level is not known.

        A finite NLL tells its excess up to that level; one that diverged, or is far behind the best
        trial, tells that its excess is `CAP`.
        """
        every = [*cells, *(cell for cell, _ in trials)]
        excess = self._excess(every, draws)[:, len(cells) :]
        nll = np.array([value for _, value in trials])
        near = nll < nll.min() * math.exp(CAP) if np.isfinite(nll).any() else nll < 0
        noise = NOISIER * self.fitted.noise
        far = (compared(excess[:, ~near]) - compared(np.array(CAP))) / noise
        found = -0.5 * (far**2).sum(axis=1)
        diverged = [math.log10(rate) for (rate, _), value in trials if value == math.inf]
        found -= AS_GOOD_AS_NEVER * (draws[:, RATE] > min(diverged, default=math.inf))
        if near.any():
            spread = 2 * noise * np.sqrt(excess[:, near] + OFFSET)  # of log NLL, not of its root
            away = np.log(nll[near]) - excess[:, near]
            weight = spread**-2
            level = (weight * away).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
            found += (-0.5 * weight * (away - level) ** 2 - np.log(spread)).sum(axis=1)
            found -= 0.5 * np.log(weight.sum(axis=1))
        return found


def _draws(
    rng: np.random.Generator, count: int, mean: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """[count, 3] of a model's numbers."""
    standard = rng.standard_normal((count, 3))
    standard[:, RATE] /= np.sqrt(rng.chisquare(DEGREES_OF_FREEDOM, count) / DEGREES_OF_FREEDOM)
    return mean + spread * standard


def published() -> Prior:
    """The prior of the packaged tables."""
    return prior_of(PACKAGED)


@functools.cache
def prior_of(file: Path) -> Prior:
    """The prior of the tables in `file`. Raises `BadInput`."""
    return Prior(packaged_fit.read() if file == PACKAGED else fit(load(file)[0]))
