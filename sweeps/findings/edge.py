"""Whether a study's best trial lies on the edge of what was searched, and how to go on beyond it.

A best trial that is the outermost in a parameter has nothing behind it that is worse: the answer
may lie further out. This is asked of each parameter that has an order (choices of numbers, ranges,
intervals), and said only as far as the data can tell the trial from those inside.
"""

import copy
import dataclasses
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sft.config.schema import Settings
from sweeps.findings.results import Compared, Result, Results
from sweeps.parameters import Distribution, Space, describe, ends, is_ordered, shown_value
from sweeps.samplers.warm_start import RANK, RATE

NEAR = 0.1
"""The part of an interval that counts as its end."""
FACTOR = 3
"""How much further real numbers go on a log scale; whole ones go twice as far."""
DECADE = 10
"""How far a study goes by itself beyond the space that it began with; on a linear scale it goes
once the width of that space."""
MOST_RANK = 256
"""Beyond which a study does not go by itself."""
JUDGED = ("complete", "pruned", "diverged")
"""States that say something of a trial's parameters."""


@dataclass(frozen=True)
class Edge:
    """The best trial is the outermost one in a parameter."""

    name: str
    up: bool
    value: Any
    """Of the best trial."""
    wider: Distribution
    """What to search then. What was searched, if that goes on beyond the trials so far."""
    next: Any
    """A value of `wider` that lies further out than every trial."""
    is_of_space: bool
    """Whether the space itself ends there, not the trials alone."""
    rival: Compared | None
    """A trial inside that cannot be told from the best."""
    is_told: bool
    """Whether it is known of every trial inside that it is worse."""


def edges(results: Results) -> list[Edge]:
    """In which parameters the best trial lies on an edge that something can lie beyond."""
    best = results.best()
    if best is None or len(results.metrics) > 1:
        return []
    found = [
        _edge(results, best, name, distribution, up)
        for name, distribution in results.distributions.items()
        if _is_scale(name, distribution) and name in best.params
        for up in (False, True)
    ]
    return [edge for edge in found if edge is not None]


def _is_scale(name: str, distribution: Distribution) -> bool:
    """Whether more and less of a parameter mean something, and more than one value was to be had.

    A seed is a number without an order.
    """
    if name.rpartition(".")[2] == "seed":
        return False
    if isinstance(distribution, CategoricalDistribution) and not is_ordered(distribution):
        return False
    return not distribution.single()


def _edge(
    results: Results, best: Result, name: str, distribution: Distribution, up: bool
) -> Edge | None:
    value = best.params[name]
    tried = {t.params[name] for t in results.trials if t.state in JUDGED and name in t.params}
    if len(tried) < 2 or value != (max(tried) if up else min(tried)):
        return None
    is_of_space = _is_at_end(distribution, value, up)
    if not is_of_space and results.is_under_way:
        return None
    wider, next = distribution, None
    if not is_of_space:
        next = _untried(distribution, value, up)
    elif (next := _step(name, distribution, up)) is not None and _is_allowed(name, next):
        wider = _until(distribution, next, up)
    if wider is distribution and is_of_space:
        return None
    inside = [
        results.against(best, t)
        for t in results.complete
        if name in t.params and not _is_at(distribution, t.params[name], value, up)
    ]
    rivals = [c for c in inside if c.interval is not None and not c.is_worse]
    rival = min(rivals, key=lambda compared: compared.behind, default=None)
    told = all(compared.is_worse for compared in inside)
    return Edge(name, up, value, wider, next, is_of_space, rival, told)


def _is_at(distribution: Distribution, value: Any, outermost: Any, up: bool) -> bool:
    """Whether a trial lies where the outermost one does, or at the same end of an interval."""
    return (
        value == outermost
        or _is_at_end(distribution, outermost, up)
        and _is_at_end(distribution, value, up)
    )


def _is_at_end(distribution: Distribution, value: Any, up: bool) -> bool:
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


# Where to go on.


def _untried(distribution: Distribution, value: Any, up: bool) -> Any:
    """The next choice, or the end of a range or an interval."""
    if isinstance(distribution, CategoricalDistribution):
        further: list[Any] = [c for c in distribution.choices if (c > value if up else c < value)]
        return min(further) if up else max(further)
    return distribution.high if up else distribution.low


def _step(name: str, distribution: Distribution, up: bool) -> Any:
    """The value one step beyond the end, in the type of the others; None if there is none."""
    values = ends(distribution)
    end, is_whole = values[-1 if up else 0], all(isinstance(value, int) for value in values)
    if _is_geometric(name, distribution):
        factor = 2 if is_whole else FACTOR
        next = end * factor if up else end / factor
        return int(next) or None if is_whole else float(f"{next:.2g}")
    if isinstance(distribution, CategoricalDistribution):
        step = values[-1] - values[-2] if up else values[1] - values[0]
    elif _is_stepped(distribution):
        step = distribution.step
    else:
        step = (values[1] - values[0]) / FACTOR
        step = math.ceil(step) if is_whole else float(f"{step:.2g}")
    next = round(end + step if up else end - step, 10)
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


def _is_allowed(name: str, value: Any) -> bool:
    """Whether the schema lets the key have this value; a key of one's own may have any."""
    *groups, last = name.split(".")
    node: Any = Settings()
    for group in groups:
        node = getattr(node, group, None)
    if not dataclasses.is_dataclass(node):
        return True
    bounds: Mapping[str, Any] = next(
        (item.metadata for item in dataclasses.fields(node) if item.name == last), {}
    )
    return bool(
        value >= bounds.get("minimum", -math.inf)
        and value > bounds.get("above", -math.inf)
        and value < bounds.get("below", math.inf)
    )


def _until(distribution: Distribution, value: Any, up: bool) -> Distribution:
    """The distribution that goes on until `value`."""
    if isinstance(distribution, CategoricalDistribution):
        more = [*distribution.choices, value] if up else [value, *distribution.choices]
        return CategoricalDistribution(more)
    wider = copy.copy(distribution)
    setattr(wider, "high" if up else "low", value)
    return wider


def further(results: Results, began: Space, asked: int, tokens: int | None) -> Space | None:
    """The space in which a study goes on by itself; None if its answer is on no edge, or if its
    bounds are reached.

    Args:
        began: the space that it began with.
        asked: the trials that the user asked for; on intervals it has twice as many at most.
        tokens: that the sweep may train on in all.
    """
    going_on = results.asked["trials"] + more_trials(asked)
    if results.is_under_way or (not results.asked["grid"] and going_on > 2 * asked):
        return None
    whole = max((trial.tokens for trial in results.complete), default=0)
    if tokens is not None and results.tokens + whole > tokens:
        return None
    found = [e for e in edges(results) if e.rival is None and _is_within(e, began)]
    if results.asked["grid"]:
        found = [edge for edge in found if edge.is_of_space]
    return results.distributions | {edge.name: edge.wider for edge in found} if found else None


def first_values(results: Results, trials: int) -> list[dict[str, Any]]:
    """What a study tries first that goes on, to `trials` in all: its best, a step beyond an edge.

    Nothing if it has not come to its end so far: then it goes on with what it was about to do.
    """
    best = results.best()
    if best is None or results.is_under_way or trials <= len(results.trials):
        return []
    found = [edge for edge in edges(results) if edge.rival is None and not edge.is_of_space]
    return [best.params | {edge.name: edge.next} for edge in found]


def _is_within(edge: Edge, began: Space) -> bool:
    low, high = _bounds(edge.name, began[edge.name])
    return low * (1 - 1e-9) <= edge.next <= high * (1 + 1e-9)


def _bounds(name: str, began: Distribution) -> tuple[float, float]:
    """Between what a study goes on by itself, of a parameter that it began with."""
    low, *_, high = ends(began)
    if name == RANK:
        return min(1, low), max(MOST_RANK, high)
    if _is_geometric(name, began):
        return low / DECADE, high * DECADE
    return low - (high - low), high + (high - low)


def describe_bounds(space: Space, trials: int, grid: bool) -> str:
    """How far a study goes by itself, in a line."""
    more = "" if grid else f"by {more_trials(trials)} trials at a time, to {2 * trials} at most; "
    scales = [name for name, distribution in space.items() if _is_scale(name, distribution)]
    ranges = ["{} {:g} to {:g}".format(name, *_bounds(name, space[name])) for name in scales]
    return f"goes on by itself beyond an edge, {more}{', '.join(ranges) or 'but nothing has one'}"


# What is said.


def sentences(results: Results) -> list[str]:
    """What there is to say of the edges, with the command that goes on beyond them."""
    found = edges(results)
    lines = [_sentence(results, edge) for edge in found]
    worth = [edge for edge in found if edge.rival is None]
    if worth and results.asked:
        lines.append(f"  to go on beyond it: {command(results, worth)}")
    return lines


def _sentence(results: Results, edge: Edge) -> str:
    most = "highest" if edge.up else "lowest"
    searched = "searched" if edge.is_of_space else "tried so far"
    said = f"edge: the best trial has the {most} {edge.name} that was {searched}, "
    said += shown_value(edge.value)
    if edge.rival is not None:
        trial = edge.rival.trial
        return (
            f"{said}, but cannot be told from trial {trial.number} with "
            f"{shown_value(trial.params[edge.name])}, inside: further out may not be better"
        )
    if not edge.is_told:
        return f"{said}: what lies beyond may be better (one run each: the data cannot tell)"
    return f"{said}, and those inside are worse: what lies beyond may be better still"


def command(results: Results, found: list[Edge]) -> str:
    """The command that goes on beyond these edges."""
    asked = results.asked
    space = {edge.name: describe(edge.wider) for edge in found if edge.is_of_space}
    prefixes = dict.fromkeys(space, "")
    words = []
    for word in asked["words"]:
        name = word.partition("=")[0]
        if name.lstrip("+") in space:
            prefixes[name.lstrip("+")] = name[: len(name) - len(name.lstrip("+"))]
        elif name not in ("hydra.sweeper.n_trials", "hydra.sweeper.extend"):
            words.append(word)
    words += [f"{prefixes[name]}{name}={text}" for name, text in space.items()]
    if not asked["grid"]:
        trials = asked["trials"] + more_trials(asked["trials"])
        words.append(f"hydra.sweeper.n_trials={trials}")
    words.append("hydra.sweeper.extend=true")
    return f"python -m sft --multirun {shlex.join(words)}"


def more_trials(trials: int) -> int:
    """By how many trials a study goes on beyond an edge."""
    return max(2, math.ceil(trials / 4))
