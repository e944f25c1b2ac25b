"""What the results of lm-evaluation-harness (as `lm_eval_child.py` hands them over) say."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sft.record.examples import Examples, digest_of


@dataclass(frozen=True)
class Metric:
    """A metric of a task or group."""

    key: str
    """`eval/NAME/METRIC`, with the task of a group and the filter of several before METRIC."""
    task: str
    metric: str
    filter: str
    value: float


def names(log: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """What a task will measure; None if it could not be tried out."""
    return None if log["results"] is None else tuple(metrics(log, name))


def metrics(log: Mapping[str, Any], name: str) -> dict[str, float]:
    """The metrics of the task, or of the group and of each of its members."""
    return {metric.key: metric.value for metric in _metrics(log, name)}


def examples(log: Mapping[str, Any], name: str) -> dict[str, Examples]:
    """What those metrics are made of that are a mean of a number for each example, or bits a byte.

    A group's metric is one of them if each example of its tasks counts the same.
    """
    found = {}
    for metric in _metrics(log, name):
        tasks = list(_tasks(log, metric.task))
        own = [
            (task, sample["asked"], sample["values"][metric.metric])
            for task in tasks
            for sample in log["samples"][task]
            if sample["filter"] == metric.filter and sample["values"].get(metric.metric) is not None
        ]
        how = {log["aggregations"][task].get(metric.metric, "mean") for task in tasks}
        # Scored in another way it is another measure.
        asked: list[object] = [[metric.metric, metric.filter]]
        digest = digest_of([*asked, *([task, one] for task, one, _ in own)])
        values = [value for _, _, value in own]
        if how == {"mean"} and all(isinstance(value, float) for value in values):
            made = Examples(values, [1.0] * len(values), digest)
        elif how == {"bits_per_byte"} and all(isinstance(value, list) for value in values):
            bits = [-nats / math.log(2) for nats, _ in values]
            made = Examples(bits, [count for _, count in values], digest)
        else:
            continue
        if math.isclose(made.value, metric.value, abs_tol=1e-9):
            found[metric.key] = made
    return found


def rows(log: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each example, with the numbers of its metrics under their names."""
    made: dict[tuple[str, int], dict[str, Any]] = {}
    several = len(log["samples"]) > 1
    for task, samples in log["samples"].items():
        filters = {sample["filter"] for sample in samples}
        for sample in samples:
            row = made.setdefault((task, sample["id"]), dict(sample["row"]))
            for metric, value in sample["values"].items():
                if isinstance(value, float):
                    row[f"{sample['filter']} {metric}" if len(filters) > 1 else metric] = value
            if several:
                row["task"] = task
    return list(made.values())


def _metrics(log: Mapping[str, Any], name: str) -> Iterator[Metric]:
    roots = log["roots"]
    own = set(roots) if len(roots) == 1 else set()
    shown = [*own, *(task for root in roots for task in _shown(log, root) if task not in own)]
    for task in shown:
        results = log["results"].get(task, {})
        parts = [key.partition(",") for key in results]
        for (metric, _, filter_), value in zip(parts, results.values(), strict=True):
            several = [one for one, _, _ in parts].count(metric) > 1
            words = [name, None if task in own else task, filter_ if several else None, metric]
            key = "/".join(["eval", *(re.sub(r"[^\w.-]+", "_", word) for word in words if word)])
            yield Metric(key, task, metric, filter_, value)


def _shown(log: Mapping[str, Any], root: str) -> Iterator[str]:
    """The root, if it is a task, or the members of a group; of one without metrics its members."""
    if root not in log["groups"]:
        yield root
    for member in log["groups"].get(root, []):
        if log["results"].get(member):
            yield member
        else:
            yield from _shown(log, member)


def _tasks(log: Mapping[str, Any], task: str) -> Iterator[str]:
    """The task itself, or those of a group."""
    if task not in log["groups"]:
        yield task
    for member in log["groups"].get(task, []):
        yield from _tasks(log, member)
