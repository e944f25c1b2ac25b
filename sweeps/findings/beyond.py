"""Where a study goes on beyond the end of a parameter: by a step of the parameter's own kind."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sft.config.schema import Settings
from sft.sweeps.parameters import RANK, RATE, Distribution, ends, is_ordered

NEAR = 0.1
"""The part of an interval that counts as its end."""
FACTOR = 3
"""How much further real numbers go on a log scale; whole ones go twice as far."""
DECADE = 10
"""How far a study goes by itself beyond the space that it began with; on a linear scale it goes
once the width of that space."""
MOST_RANK = 256
"""Beyond which a study does not go by itself."""


def is_scale(name: str, distribution: Distribution) -> bool:
    """Whether more and less of a parameter mean something, and more than one value was to be had.

    A seed is a number without an order.
    """
    if name.rpartition(".")[2] == "seed":
        return False
    if isinstance(distribution, CategoricalDistribution) and not is_ordered(distribution):
        return False
    return not distribution.single()


def is_at_end(distribution: Distribution, value: Any, up: bool) -> bool:
    """Whether a value is the last one on its side, or near the end of an interval."""
    low, high = ends(distribution)[0], ends(distribution)[-1]
    if value == (high if up else low):
        return True
    if isinstance(distribution, CategoricalDistribution) or _is_stepped(distribution):
        return False
    scale = math.log if distribution.log else float
    rest = scale(high) - scale(value) if up else scale(value) - scale(low)
    return rest <= NEAR * (scale(high) - scale(low))


def _is_stepped(distribution: FloatDistribution | IntDistribution) -> bool:
    """Whether it is a range, not an interval."""
    step = distribution.step
    return step is not None and (step != 1 or isinstance(distribution, FloatDistribution))


def untried(distribution: Distribution, value: Any, up: bool) -> Any:
    """The next choice, or the end of a range or an interval."""
    if isinstance(distribution, CategoricalDistribution):
        further: list[Any] = [c for c in distribution.choices if (c > value if up else c < value)]
        return min(further) if up else max(further)
    return distribution.high if up else distribution.low


def step(name: str, distribution: Distribution, up: bool) -> Any:
    """The value one step beyond the end, in the type of the others; None if there is none."""
    values = ends(distribution)
    end, is_whole = values[-1 if up else 0], all(isinstance(value, int) for value in values)
    if _is_geometric(name, distribution):
        factor = 2 if is_whole else FACTOR
        next = end * factor if up else end / factor
        return int(next) or None if is_whole else float(f"{next:.2g}")
    if isinstance(distribution, CategoricalDistribution):
        gap = values[-1] - values[-2] if up else values[1] - values[0]
    elif _is_stepped(distribution):
        gap = distribution.step
    else:
        gap = (values[1] - values[0]) / FACTOR
        gap = math.ceil(gap) if is_whole else float(f"{gap:.2g}")
    next = round(end + gap if up else end - gap, 10)
    if values[0] >= 0 > next:  # what has no negative value so far gets none
        return None if values[0] == 0 else type(end)(0)
    return next


def _is_geometric(name: str, distribution: Distribution) -> bool:
    """Whether a parameter goes by factors: lr and rank, a log scale, choices whose gaps grow."""
    values = ends(distribution)
    if min(values) <= 0:
        return False
    if name in (RATE, RANK):
        return True
    if not isinstance(distribution, CategoricalDistribution):
        return distribution.log
    gaps = [b - a for a, b in zip(values, values[1:], strict=False)]
    return gaps[-1] > 1.5 * gaps[0]


def is_allowed(name: str, value: Any) -> bool:
    """Whether the schema lets the key have this value; a key of one's own may have any."""
    *groups, last = name.split(".")
    node: Any = Settings()
    for group in groups:
        node = getattr(node, group, None)
    if not dataclasses.is_dataclass(node):
        return True
    limits: Mapping[str, Any] = next(
        (item.metadata for item in dataclasses.fields(node) if item.name == last), {}
    )
    return bool(
        value >= limits.get("minimum", -math.inf)
        and value > limits.get("above", -math.inf)
        and value < limits.get("below", math.inf)
    )


def until(distribution: Distribution, value: Any, up: bool) -> Distribution:
    """The distribution that goes on until `value`."""
    if isinstance(distribution, CategoricalDistribution):
        more = [*distribution.choices, value] if up else [value, *distribution.choices]
        return CategoricalDistribution(more)
    wider = copy.copy(distribution)
    setattr(wider, "high" if up else "low", value)
    return wider


def bounds(name: str, began: Distribution) -> tuple[float, float]:
    """Between what a study goes on by itself, of a parameter that it began with."""
    low, *_, high = ends(began)
    if name == RANK:
        return min(1, low), max(MOST_RANK, high)
    if _is_geometric(name, began):
        return low / DECADE, high * DECADE
    return low - (high - low), high + (high - low)
