"""The parameters of a sweep: choices, whole numbers and real ones, and how they are written."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

RATE, RANK = "lr", "lora.rank"
"""The parameters that published sweeps know of."""
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]
"""Every parameter of a sweep by its key."""

MOST_POINTS = 100_000
"""Points that a grid may have."""

STAGES = "stages"
"""The user attribute of a study that became wider: its spaces, from the first to that of now."""


def is_ordered(distribution: Distribution) -> TypeGuard[CategoricalDistribution]:
    """True for choices that are all numbers."""
    return isinstance(distribution, CategoricalDistribution) and all(
        isinstance(choice, int | float) and not isinstance(choice, bool)
        for choice in distribution.choices
    )


def is_endless(distribution: Distribution) -> bool:
    """True for an interval of real numbers, and for one on a log scale."""
    return not isinstance(distribution, CategoricalDistribution) and (
        distribution.step is None or distribution.log
    )


def ends(distribution: Distribution) -> tuple[Any, ...]:
    """All choices, or the lowest and the highest number."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return distribution.low, distribution.high


def combinations(space: Mapping[str, Distribution]) -> list[dict[str, Any]] | None:
    """Every point of a space, the last parameter varying fastest.

    None if there is an interval of real numbers, a log scale or more than 100,000 points.
    """
    if any(map(is_endless, space.values())):
        return None
    values: list[list[Any]] = []
    for distribution in space.values():
        if isinstance(distribution, CategoricalDistribution):
            values.append(list(distribution.choices))
            continue
        low, step = distribution.low, distribution.step
        assert step is not None  # not endless
        count = int(round((distribution.high - low) / step)) + 1
        if count > MOST_POINTS:
            return None
        values.append([low + i * step for i in range(count)])
    if math.prod(map(len, values)) > MOST_POINTS:
        return None
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def holds(wide: Distribution, narrow: Distribution) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if is_endless(narrow):
        return (
            type(wide) is type(narrow)
            and is_endless(wide)
            and ends(wide)[0] <= ends(narrow)[0]
            and ends(narrow)[1] <= ends(wide)[1]
        )
    points = combinations({"": narrow})
    return points is not None and all(_is_in(wide, point[""]) for point in points)


def _is_in(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(c == value and type(c) is type(value) for c in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return distribution._contains(distribution.to_internal_repr(value))  # type: ignore[arg-type]


def stages(attributes: Mapping[str, Any]) -> list[Space]:
    """The spaces of a study with these user attributes; none if it never became wider."""
    return [
        {name: json_to_distribution(text) for name, text in kept.items()}  # type: ignore[misc]
        for kept in attributes.get(STAGES, [])
    ]


def to_json(space: Mapping[str, Distribution]) -> dict[str, str]:
    """A space as a study keeps it among its stages."""
    return {name: distribution_to_json(distribution) for name, distribution in space.items()}


def describe(distribution: Distribution) -> str:
    """A distribution in the grammar of sweeps/space.py, which it came from."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(str(choice) for choice in distribution.choices)})"
    whole = isinstance(distribution, IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None or whole and step == 1:
        text = f"interval({_number(low)}, {_number(high)})"
        text = f"int({text})" if whole else text
    else:
        text = f"range({_number(low)}, {high + step:g}, {_number(step)})"
    return f"tag(log, {text})" if distribution.log else text


def describe_space(space: Mapping[str, Distribution]) -> dict[str, str]:
    """A space in a form that people and JSON can compare."""
    return {name: describe(distribution) for name, distribution in space.items()}


def _number(value: float) -> str:
    """In short, if that says all."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def shown(params: Mapping[str, Any]) -> str:
    """The values of a trial in a line."""
    return ", ".join(f"{name}={shown_value(value)}" for name, value in params.items())


def shown_value(value: Any) -> str:
    """A value as people read it; nothing for None."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
