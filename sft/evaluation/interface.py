"""What an evaluator is: its names, the numbers that it gives, and requests side by side."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sft.cost.usage import Usage
from sft.errors import BadInput
from sft.record.examples import Examples
from sft.record.metrics import NOT_METRICS, UNITS
from sft.stages.stages import stage

if TYPE_CHECKING:
    import tinker

CONCURRENT_REQUESTS = 64
"""Requests of one evaluation in flight: enough to fill the service, few enough to hold."""

SAME = 1e-3
"""How far, relatively, a metric may be from the quotient of its examples: evaluators round."""

METRIC = re.compile(r"eval/\S(.*\S)?").fullmatch
"""What the names of an evaluator's metrics are."""

Result = TypeVar("Result")


class Evaluator(Protocol):
    """Measures one set of weights. What it returns are numbers by name, `eval/…`, each of which
    no other evaluator has; if it fails, training goes on without them.

    An evaluator may also have

    - a `name`, which no other of the run may have; else it goes by that of its class or function;
    - `metrics`, the names of what it measures: a run and a sweep look there, before they start,
      for the metric that they go by;
    - `usage()`, the tokens that a call asks for at most (`sft.cost.usage.Usage`), so that a run
      knows what it costs before it begins, and a budget is not passed;
    - a `table` after a call, rows as plain dicts, which is logged under its name;
    - `examples` after a call, a mapping of metrics to the `Examples` that each is made of: if the
      metric is their quotient they are kept, `METRIC_stderr` is logged beside the metric, and runs
      are compared with how sure it is.
    """

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]: ...


@dataclass
class EvaluatorBuilder:
    """A dataclass of plain values that says what to measure, and builds the evaluator when called.

    The command line sets its fields: `evaluators.builder=my_eval:Judge
    evaluators.args.path=questions.jsonl`. From Python any callable will do, but only a run whose
    builders are of this kind can be reproduced.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as messages say

    def __call__(self) -> Evaluator:
        raise NotImplementedError


def name_of(evaluator: Evaluator) -> str:
    """The name of an evaluator in tables, messages and the names of files."""
    own = getattr(evaluator, "name", None) or getattr(evaluator, "__name__", None)
    return str(own or type(evaluator).__name__)


def usage_of(evaluator: Evaluator) -> Usage | None:
    """The tokens that a call of an evaluator asks for at most; None if it does not say."""
    usage = getattr(evaluator, "usage", None)
    return usage() if callable(usage) else None


def check_names(evaluators: Iterable[Evaluator]) -> None:
    """Refuse two evaluators of one name. Raises `BadInput`."""
    names: dict[str, tuple[str, Evaluator]] = {}
    for evaluator in evaluators:
        name = name_of(evaluator)
        # As the files of their tables are called, on every file system.
        other = names.setdefault(re.sub(r"\W+", "-", name).casefold(), (name, evaluator))
        if other[1] is not evaluator:
            raise BadInput(
                f"evaluator_builders: two evaluators are called '{name}' "
                f"({type(other[1]).__name__} and {type(evaluator).__name__}), so that one would "
                "write over what the other measured; give each a `name` of its own"
            )


def numbers(measured: object) -> dict[str, float]:
    """What an evaluator returned, as plain numbers by name. Raises `TypeError` or `ValueError`."""
    if not isinstance(measured, dict):
        raise TypeError(f"expected a dict of metrics, not {type(measured).__name__}")
    for name, value in measured.items():
        if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            raise TypeError(f"{name}: expected a number, not {value!r}")
    return {str(name): float(value) for name, value in measured.items()}


def claim(writers: dict[str, str], evaluator: Evaluator, measured: Iterable[str]) -> None:
    """Enter in `writers` that `evaluator` writes the metrics `measured`.

    Raises `BadInput` if training or another evaluator writes one of them, for a step's row has one
    place for each, or if one has no name that can be shown. None of them is entered then.
    """
    name = name_of(evaluator)
    measured = list(measured)
    for key in measured:
        of_training = key.startswith("train/") or key in UNITS and not key.startswith("eval/")
        if key in NOT_METRICS or of_training:
            raise BadInput(
                f"evaluators: '{name}' measures '{key}', which is what training writes; "
                f"call it eval/{name}/…"
            )
        if not METRIC(key) or not key.isprintable():
            raise BadInput(
                f"evaluators: '{name}' measures {key!r}; a metric's name begins with eval/ and "
                f"stands in one line: eval/{name}/…"
            )
        if (other := writers.get(key, name)) != name:
            raise BadInput(
                f"evaluators: '{other}' and '{name}' both measure '{key}', so that one would "
                f"write over the other; call one of them eval/{name}/…"
            )
    writers.update(dict.fromkeys(measured, name))


def table_of(evaluator: Evaluator) -> list[dict[str, Any]] | None:
    """The rows of an evaluator's table; None if it has none. Raises `TypeError`."""
    table = getattr(evaluator, "table", None)
    if table is None:
        return None
    if not isinstance(table, list):
        raise TypeError(f"expected a list of dicts, not {type(table).__name__}")
    for row in table:
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
            raise TypeError(f"expected a list of dicts with texts as keys; a row is {row!r:.100}")
    return table or None


def examples_of(
    evaluator: Evaluator, measured: Mapping[str, float]
) -> tuple[dict[str, Examples], dict[str, str]]:
    """What the metrics `measured` are made of, if `evaluator` says it; and why others of its
    examples are not taken. Those that are not of the metric would give intervals in other units."""
    given = getattr(evaluator, "examples", None)
    if given is None:
        return {}, {}
    if not isinstance(given, Mapping):
        what = f"sft.evaluators.Examples by metric, not {type(given).__name__}"
        return {}, {"its metrics": f"expected {what}"}
    problems = {metric: _problem(one, measured.get(metric)) for metric, one in given.items()}
    kept = {metric: given[metric] for metric, problem in problems.items() if problem is None}
    return kept, {str(metric): problem for metric, problem in problems.items() if problem}


def _problem(examples: object, value: float | None) -> str | None:
    """Why `examples` are not those of a metric of that value; None if they are."""
    import numpy as np

    if not isinstance(examples, Examples):
        return f"expected sft.evaluators.Examples, not {type(examples).__name__}"
    if value is None:
        return "the metric was not returned"
    try:
        totals = np.asarray(examples.totals, dtype=np.float64)
        weights = np.asarray(examples.weights, dtype=np.float64)
    except (TypeError, ValueError):
        return "a total or a weight is no number"
    if totals.ndim != 1 or weights.ndim != 1:
        return "expected one total and one weight for each example"
    if not (np.isfinite(totals).all() and np.isfinite(weights).all()):
        return "a total or a weight is not finite"
    if (weights < 0).any():
        return "a weight is below 0"
    made = float(totals.sum() / weights.sum()) if weights.any() else math.nan
    if not math.isclose(made, value, rel_tol=SAME, abs_tol=1e-6):
        return f"they give {made:g} (sum of totals by sum of weights), and {value:g} was returned"
    return None


async def gather_bounded(jobs: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
    """The results of `jobs`, in order, `CONCURRENT_REQUESTS` of them at a time."""
    slots = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def one(job: Callable[[], Awaitable[Result]]) -> Result:
        async with slots:
            result = await job()
        now.done += 1
        return result

    with stage("evaluating", total=len(jobs)) as now:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(job)) for job in jobs]
    return [task.result() for task in tasks]


def prefix(name: str, default: str) -> str:
    """What the metrics of an evaluator called `name` begin with."""
    return "eval" if name == default else f"eval/{name}"
