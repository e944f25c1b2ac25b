"""What a log of Inspect AI (as `inspect_child.py` hands it over) says: metrics, examples, rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from sft.record.examples import STDERR, Examples, digest_of

MEANS = ("accuracy", "mean")
"""Metrics of Inspect that are the mean of the samples' scores."""


def names(log: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """What a task will measure; None if that depends on what its scorers say."""
    scorers = log["scorers"]
    if log["reducers"] > 1 or any(scorer["metrics"] is None for scorer in scorers):
        return None
    several = len(scorers) > 1
    if max(Counter(scorer["name"] for scorer in scorers).values(), default=0) > 1:
        return None
    return tuple(
        _key(name, scorer["name"] if several else None, _shown(metric, scorer["metrics"]))
        for scorer in scorers
        for metric in scorer["metrics"]
    )


def metrics(log: Mapping[str, Any], name: str) -> dict[str, float]:
    """The task's metrics: `eval/NAME/METRIC`, or `eval/NAME/SCORE/METRIC` of several scores."""
    return {
        _key(name, said, _shown(metric, score["metrics"])): float(value)
        for said, score in _scores(log)
        for metric, value in score["metrics"].items()
    }


def examples(log: Mapping[str, Any], name: str) -> dict[str, Examples]:
    """What those metrics are made of that are the mean of a number for each sample."""
    asked = {str(one["id"]): [one["prompt"], one["reference"]] for one in log["samples"]}
    found = {}
    for said, score in _scores(log):
        for one in log["reductions"]:
            if (one["scorer"], one["reducer"]) != (score["name"], score["reducer"]):
                continue
            values = [(str(sample), value) for sample, value in one["values"]]
            totals = [value for _, value in values if value is not None]
            # Scored in another way it is another measure.
            scored: list[object] = [[score["name"], score["reducer"]]]
            scored += [asked.get(sample) for sample, value in values if value is not None]
            digest = digest_of(scored)
            for metric in MEANS:
                made = Examples(totals, [1.0] * len(totals), digest)
                if math.isclose(made.value, score["metrics"].get(metric, math.nan), abs_tol=1e-9):
                    found[_key(name, said, metric)] = made
    return found


def rows(log: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each sample, with what each scorer said under the scorer's name."""
    return [
        {key: one[key] for key in ("prompt", "answer", "reference")}
        | {f"score {scorer}": value for scorer, value in one["scores"].items()}
        for one in log["samples"]
    ]


def _scores(log: Mapping[str, Any]) -> list[tuple[str | None, Mapping[str, Any]]]:
    """Each score with what tells it from the others of the task; None if it is the only one."""
    scores = log["scores"]
    if len(scores) == 1:
        return [(None, scores[0])]
    shared = Counter(score["name"] for score in scores)
    return [
        (f"{s['name']}_{s['reducer']}" if shared[s["name"]] > 1 else s["name"], s) for s in scores
    ]


def _shown(metric: str, beside: Collection[str]) -> str:
    """The name of a metric of a score: `stderr` is that of the mean that stands `beside` it."""
    mean = next((one for one in MEANS if one in beside), None)
    return mean + STDERR if metric == "stderr" and mean else metric


def _key(name: str, score: str | None, metric: str) -> str:
    words = [word for word in (name, score, metric) if word]
    return "/".join(["eval", *(re.sub(r"[^\w.-]+", "_", word) for word in words)])
