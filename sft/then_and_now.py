"""A run and its repetition: what differs in their surroundings, and whether the numbers agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COMPARED = ("train/nll", "eval/nll")
ELSEWHERE_TOLERANCE = 1e-3
"""Nats: what two runs of one config may differ by where the hardware is not ours to name."""
HARDWARE = ("cpu", "vector_units", "threads", "torch", "gpus")
"""What decides about the last bit on the local service, with its dtype."""


@dataclass
class Verdict:
    """Whether two runs agree, and the sentence that says so."""

    agrees: bool
    words: str

    def __str__(self) -> str:
        return f"{'agrees' if self.agrees else 'DIFFERS'}: {self.words}"


def compare(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], tolerance: float
) -> Verdict:
    """Compare `train/nll` and `eval/nll` step by step, in nats.

    Two values agree when they differ by at most `tolerance`, or are both not finite in the same
    way. A step that only one of the runs has is a difference.
    """
    largest: dict[str, tuple[float, int]] = {}
    first: tuple[int, str] | None = None
    compared = 0
    for metric in COMPARED:
        before = {row["step"]: row[metric] for row in then if metric in row}
        after = {row["step"]: row[metric] for row in now if metric in row}
        if missing := sorted(before.keys() ^ after.keys()):
            one = "the reproduction" if missing[0] in before else "the original"
            return Verdict(False, f"{one} has no {metric} at step {missing[0]}")
        for step in sorted(before):
            compared += 1
            size = _distance(before[step], after[step])
            if size > largest.get(metric, (-1.0, 0))[0]:
                largest[metric] = (size, step)
            if size > tolerance and (first is None or step < first[0]):
                first = (step, metric)
    if not compared:
        return Verdict(False, "there are no values of train/nll or eval/nll to compare")
    sizes = ", ".join(
        f"{metric} by at most {size:.3g} nats at step {step}"
        for metric, (size, step) in largest.items()
    )
    if first is not None:
        return Verdict(False, f"{sizes}; first at step {first[0]} ({first[1]})")
    if all(size == 0 for size, _ in largest.values()):
        return Verdict(True, f"all {compared} values of {' and '.join(largest)} are identical")
    return Verdict(True, f"{sizes}, within {tolerance:g}")


def _distance(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    size = abs(one - other)
    return size if math.isfinite(size) else math.inf


def default_tolerance(
    saved: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]
) -> float:
    """0 where the numbers have to be the same to the last bit, 1e-3 nats elsewhere."""
    before, after = then.get("platform") or {}, now.get("platform") or {}
    same = before and all(before.get(key) == after.get(key) for key in HARDWARE)
    local = (saved.get("service") or {}).get("kind") == "local"
    return 0.0 if local and same and not after.get("gpus") else ELSEWHERE_TOLERANCE


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """One line for each thing that is not as it was: code, packages, data, hardware."""
    if not then:
        return
    before, after = then.get("git") or {}, now.get("git") or {}
    if before.get("commit") != after.get("commit"):
        yield f"git commit: {_short(before.get('commit'))} then, {_short(after.get('commit'))} now"
    if before.get("diff") != after.get("diff"):
        kinds = ["with" if state.get("diff") else "without" for state in (before, after)]
        detail = ", other ones" if kinds == ["with", "with"] else ""
        yield f"uncommitted changes: {kinds[0]} then, {kinds[1]} now{detail}"
    if now.get("digest") and then.get("digest") != now["digest"]:
        yield f"data digest: {then.get('digest')} then, {now['digest']} now"
    for group in ("packages", "platform"):
        before, after = then.get(group) or {}, now.get(group) or {}
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key) and (group, key) != ("platform", "torch"):
                yield f"{key}: {before.get(key)} then, {after.get(key)} now"


def _short(commit: str | None) -> str:
    return commit[:10] if commit else "none"
