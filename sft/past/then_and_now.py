"""A run and its repetition: what differs in their surroundings, and whether the numbers agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sft.record.metrics import compared as held_out_metrics
from sft.record.metrics import evaluated, unit_of

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
    """Compare `train/nll`, `eval/nll` and `eval/NAME/nll` step by step, in nats.

    Two values agree when they differ by at most `tolerance`, or are both not finite in the same
    way. A step that only one of the runs has is a difference.
    """
    largest: dict[str, tuple[float, int]] = {}
    first: tuple[int, str] | None = None
    compared = 0
    measured = {name for row in [*then, *now] for name in row}
    for metric in ("train/nll", *held_out_metrics(measured)):
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
    others = _others(then, now)
    if first is not None:
        return Verdict(False, f"{sizes}; first at step {first[0]} ({first[1]}){others}")
    if all(size == 0 for size, _ in largest.values()):
        words = f"all {compared} values of {' and '.join(largest)} are identical"
        return Verdict(True, words + others)
    return Verdict(True, f"{sizes}, within {tolerance:g}{others}")


def _others(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """What became of metrics that decide nothing: an evaluator may well draw by chance."""
    measured = {name for row in [*then, *now] for name in row}
    said = []
    for metric in evaluated(measured):
        if unit_of(metric):  # held-out NLL, and bits per byte, which follow from it
            continue
        before = {row["step"]: row[metric] for row in then if metric in row}
        after = {row["step"]: row[metric] for row in now if metric in row}
        sizes = [_distance(before[step], after[step]) for step in before.keys() & after.keys()]
        if before.keys() != after.keys():
            said.append(f"{metric} is not measured at the same steps")
        elif any(sizes):
            said.append(f"{metric} differs by at most {max(sizes):.3g}")
        else:
            said.append(f"{metric} is identical")
    return f"; {'; '.join(said)}" if said else ""


def _distance(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    size = abs(one - other)
    return size if math.isfinite(size) else math.inf


def default_tolerance(
    saved: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]
) -> float:
    """0 if the numbers have to be the same to the last bit, 1e-3 nats elsewhere."""
    before, after = then.get("platform") or {}, now.get("platform") or {}
    same = before and all(before.get(key) == after.get(key) for key in HARDWARE)
    local = (saved.get("service") or {}).get("kind") == "local"
    return 0.0 if local and same and not after.get("gpus") else ELSEWHERE_TOLERANCE


@dataclass
class Seen:
    """What was compared of two runs' surroundings, and what was not: said so, never supposed."""

    same: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        self.same += other.same
        self.different += other.different
        self.unseen += other.unseen

    def files(self, what: str, then: Any, now: Any, absent: str) -> None:
        """Compare two mappings of names to digests; `absent` is said if one is not there."""
        if not then or not now:
            self.unseen.append(f"{what}: {absent}")
        elif other := [name for name in sorted(then | now) if then.get(name) != now.get(name)]:
            self.different.append(f"{what}: {', '.join(other)} changed")
        else:
            self.same.append(what)


def surroundings(then: Mapping[str, Any], now: Mapping[str, Any], *, local: bool) -> Seen:
    """Code, packages, machine and model files of two runs, from their facts.

    `local`: the local service trains, on the machine that the facts are of.
    """
    seen = Seen()
    _git(seen, then.get("git") or {}, now.get("git") or {}, {*(now.get("code") or {})})
    _one(seen, "the harness's code", then.get("harness"), now.get("harness"))
    before, after = then.get("code") or {}, now.get("code") or {}
    if before or after:
        absent = "that run recorded no digest of it"
        both = before.keys() & after.keys()  # what else of a package is loaded is no difference
        was, now_is = ({name: code[name] for name in both} for code in (before, after))
        seen.files("the builders' code", was, now_is, absent)
    was, now_is = (_of_evaluators(facts) for facts in (then, now))
    if was or now_is:
        seen.files("the evaluators' files", was, now_is, "that run recorded no digest of them")
    for group, what in (("packages", "packages"), ("platform", "machine")):
        before, after = then.get(group) or {}, now.get(group) or {}
        keys = [key for key in sorted(before | after) if (group, key) != ("platform", "torch")]
        other = [key for key in keys if before.get(key) != after.get(key)]
        seen.different += [f"{key}: {before.get(key)} then, {after.get(key)} now" for key in other]
        if not before:
            seen.unseen.append(f"{what}: that run recorded none")
        elif not other:
            seen.same.append(what if local or group == "packages" else "this machine")
    if not local:
        seen.unseen.append("the service's machine, its version and the model's weights there")
    else:
        absent = "no folder on this machine was recorded to hold it"
        seen.files("the model's files", then.get("model"), now.get("model"), absent)
    return seen


def _of_evaluators(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """Digests of the files that evaluators are given, by key."""
    files: Mapping[str, Any] = facts.get("files") or {}
    return {key: one["sha256"] for key, one in files.items() if key.startswith("evaluators")}


def _one(seen: Seen, what: str, then: Any, now: Any) -> None:
    if not then:
        seen.unseen.append(f"{what}: that run recorded no digest of it")
    elif then != now:
        seen.different.append(f"{what} changed")
    else:
        seen.same.append(what)


def _git(seen: Seen, then: Mapping[str, Any], now: Mapping[str, Any], modules: set[str]) -> None:
    """Compare commits and what is not committed; `modules` were compared on their own."""
    if not then.get("commit") and not now.get("commit"):
        seen.unseen.append("the commit: there is no git repository around the working folder")
        return
    if then.get("commit") != now.get("commit"):
        seen.different.append(
            f"git commit: {_short(then.get('commit'))} then, {_short(now.get('commit'))} now"
        )
    else:
        seen.same.append("commit")
    whole = "diff_digest" if "diff_digest" in then else "diff"
    if then.get(whole) != now.get(whole):
        kinds = ["with" if state.get("diff") else "without" for state in (then, now)]
        detail = ", other ones" if kinds == ["with", "with"] else ""
        seen.different.append(f"uncommitted changes: {kinds[0]} then, {kinds[1]} now{detail}")
    elif whole == "diff" and then.get("diff_cut"):
        seen.unseen.append("uncommitted changes beyond those that were recorded")
    elif then.get("diff"):
        seen.same.append("uncommitted changes")
    covered = tuple(f"{name.replace('.', '/')}.py" for name in modules)
    unknown = [
        file
        for file in then.get("untracked") or []
        if file.endswith(".py") and not (covered and f"/{file}".endswith(covered))
    ]
    if unknown:
        more = ", …" if len(unknown) > 3 else ""
        seen.unseen.append(f"files that git does not know: {', '.join(unknown[:3])}{more}")


def _short(commit: str | None) -> str:
    return commit[:10] if commit else "none"
