"""The losses: the settings of each, its value, and how it pulls at the logprobs of the targets.

A loss is a function of the logprobs that the model gives to its targets. So all that a backward
needs is its slope there. `pull` gives that with the sign turned: the weights of the cross entropy
whose gradient is the same at this point. A target has a factor (its weight, or its advantage) and,
for losses of a policy, the logprob it had when it was sampled. Where the advantage is 0 that may be
a stand-in, such as -1e9 for the tokens of a prompt: exp(logprob - sampled) is then infinite, and
must not meet the 0.

Formulas and defaults: https://tinker-docs.thinkingmachines.ai/tinker/losses and tutorial 202 of
tinker-cookbook. Settings are named as `loss_fn_config` names them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:  # torch: half of those who read this file have none
    from torch import Tensor


class Loss(Protocol):
    """All tensors of a call have one shape."""

    policy: ClassVar[bool]
    """Whether it is of a policy: it takes logprobs and advantages, and answers with the logprob of
    every target. Else it takes weights, and targets of weight zero need not be computed."""

    def pull(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> Tensor:
        """-d loss / d logprob of each target."""
        ...

    def total(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> float:
        """The loss, summed over one datum; float64 tensors on the CPU."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """weight * -logprob"""

    policy: ClassVar[bool] = False

    def pull(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> Tensor:
        return factors

    def total(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> float:
        return -np.dot(factors.numpy(), logprobs.numpy())


@dataclass(frozen=True)
class ImportanceSampling:
    """-ratio * advantage, with ratio = exp(logprob - sampled)"""

    policy: ClassVar[bool] = True

    def pull(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> Tensor:
        return _weighed((logprobs - sampled).exp(), factors)

    def total(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> float:
        return -float(self.pull(logprobs, factors, sampled).sum())


@dataclass(frozen=True)
class Ppo:
    """-min(ratio * advantage, clipped ratio * advantage) (Schulman et al. 2017)"""

    policy: ClassVar[bool] = True
    clip_low_threshold: float = 0.8
    clip_high_threshold: float = 1.2

    def __post_init__(self) -> None:
        _check_bounds(self.clip_low_threshold, self.clip_high_threshold)

    def pull(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> Tensor:
        free, clipped = self._objectives(logprobs, factors, sampled)
        return free.masked_fill(free > clipped, 0.0)

    def total(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> float:
        free, clipped = self._objectives(logprobs, factors, sampled)
        return -float(free.minimum(clipped).sum())

    def _objectives(
        self, logprobs: Tensor, factors: Tensor, sampled: Tensor
    ) -> tuple[Tensor, Tensor]:
        ratio = (logprobs - sampled).exp()
        clipped = ratio.clamp(self.clip_low_threshold, self.clip_high_threshold)
        return _weighed(ratio, factors), clipped * factors


@dataclass(frozen=True)
class Cispo:
    """-clipped ratio * logprob * advantage, the ratio taken as a constant (Chen et al. 2025)

    There is no lower bound by default: https://arxiv.org/abs/2506.13585.
    """

    policy: ClassVar[bool] = True
    clip_low_threshold: float = 0.0
    clip_high_threshold: float = 4.0

    def __post_init__(self) -> None:
        _check_bounds(self.clip_low_threshold, self.clip_high_threshold)

    def pull(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> Tensor:
        ratio = (logprobs - sampled).exp()
        return ratio.clamp(self.clip_low_threshold, self.clip_high_threshold) * factors

    def total(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> float:
        return -float((self.pull(logprobs, factors, sampled) * logprobs).sum())


@dataclass(frozen=True)
class Dro:
    """-(logprob * advantage - beta / 2 * (logprob - sampled)^2) (Richemond et al. 2024)

    `beta` has no default: none is documented, and servers differ in theirs.
    """

    policy: ClassVar[bool] = True
    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta is {self.beta}: expected 0 or more")

    def pull(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> Tensor:
        return factors - self.beta * (logprobs - sampled)

    def total(self, logprobs: Tensor, factors: Tensor, sampled: Tensor) -> float:
        drift = logprobs - sampled
        return -float((logprobs * factors - 0.5 * self.beta * drift * drift).sum())


def _weighed(ratio: Tensor, factors: Tensor) -> Tensor:
    """Their product; 0 where the factor is 0, also of an infinite ratio."""
    return (ratio * factors).masked_fill(factors == 0, 0.0)


def _check_bounds(low: float, high: float) -> None:
    """A policy that has not moved has the ratio 1: bounds without it would clip every target."""
    if not 0 <= low <= 1 <= high < math.inf:
        raise ValueError(
            f"clip_low_threshold is {low:g} and clip_high_threshold {high:g}: expected bounds of a "
            "ratio of probabilities, 0 <= low <= 1 <= high, such as 0.8 and 1.2 (not their "
            "distances from 1)"
        )


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "importance_sampling": ImportanceSampling,
    "ppo": Ppo,
    "cispo": Cispo,
    "dro": Dro,
}
"""By the name that the key `loss_fn` knows them by."""


def loss_of(name: str, settings: Mapping[str, float | str]) -> Loss:
    """The loss of this name with these settings; those not given have their defaults.

    Raises `ValueError` with a sentence that names the key.
    """
    if name not in LOSSES:
        raise ValueError(
            f"loss_fn is {name!r}: the local service computes {', '.join(LOSSES)} (a loss of your "
            "own works through forward_backward_custom, which needs no other)"
        )
    kind = LOSSES[name]
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key, value in settings.items():
        if key not in known:
            takes = ", ".join(known) or "no settings"
            raise ValueError(f"loss_fn_config holds {key!r}: {name} takes {takes}")
        if isinstance(value, bool | str) or math.isnan(value):
            raise ValueError(f"loss_fn_config: {key} is {value!r}: expected a number")
    for key, field in known.items():
        if field.default is MISSING and key not in settings:
            raise ValueError(f"loss_fn_config lacks {key!r}: {name} has no default for it")
    try:
        return kind(**settings)
    except ValueError as error:
        raise ValueError(f"loss_fn_config of {name}: {error}") from error
