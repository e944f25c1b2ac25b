"""Whether a study's best trial lies on the edge of what was searched, and how to go on beyond it.

A best trial that is the outermost in a parameter has nothing behind it that is worse: the answer
may lie further out. This is asked of each parameter that has an order (choices of numbers, ranges,
intervals), and said only as far as the data can tell the trial from those inside.
"""

import math
import shlex
from dataclasses import dataclass
from typing import Any

from sft.sweeps.findings.beyond import (
    bounds,
    is_allowed,
    is_at_end,
    is_scale,
    step,
    until,
    untried,
)
from sft.sweeps.findings.results import Compared, Result, Results
from sft.sweeps.parameters import Distribution, Space, describe, shown_value

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
        if is_scale(name, distribution) and name in best.params
        for up in (False, True)
    ]
    return [edge for edge in found if edge is not None]


def _edge(
    results: Results, best: Result, name: str, distribution: Distribution, up: bool
) -> Edge | None:
    value = best.params[name]
    tried = {t.params[name] for t in results.trials if t.state in JUDGED and name in t.params}
    if len(tried) < 2 or value != (max(tried) if up else min(tried)):
        return None
    is_of_space = is_at_end(distribution, value, up)
    if not is_of_space and results.is_under_way:
        return None
    wider, next = distribution, None
    if not is_of_space:
        next = untried(distribution, value, up)
    elif (next := step(name, distribution, up)) is not None and is_allowed(name, next):
        wider = until(distribution, next, up)
    if wider is distribution and is_of_space:
        return None
    inside = [
        results.against(best, t)
        for t in results.complete
        if name in t.params and not _is_at(distribution, t.params[name], value, up)
    ]
    rivals = [c for c in inside if c.interval is not None and not c.is_worse]
    rival = min(rivals, key=lambda compared: compared.behind, default=None)
    told = bool(inside) and all(compared.is_worse for compared in inside)
    return Edge(name, up, value, wider, next, is_of_space, rival, told)


def _is_at(distribution: Distribution, value: Any, outermost: Any, up: bool) -> bool:
    """Whether a trial lies where the outermost one does, or at the same end of an interval."""
    return (
        value == outermost
        or is_at_end(distribution, outermost, up)
        and is_at_end(distribution, value, up)
    )


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
    low, high = bounds(edge.name, began[edge.name])
    return low * (1 - 1e-9) <= edge.next <= high * (1 + 1e-9)


def describe_bounds(space: Space, trials: int, grid: bool) -> str:
    """How far a study goes by itself, in a line."""
    more = "" if grid else f"by {more_trials(trials)} trials at a time, to {2 * trials} at most; "
    scales = [name for name, distribution in space.items() if is_scale(name, distribution)]
    ranges = ["{} {:g} to {:g}".format(name, *bounds(name, space[name])) for name in scales]
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
        return f"{said}: what lies beyond may be better, but the data cannot tell how sure that is"
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
