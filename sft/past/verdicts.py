"""What a comparison of runs says of each metric: which is better, and how sure that is.

Runs that differ in their seeds alone are repeats of one configuration, and count together. Of two
configurations the second is compared with the first, of more each with the best.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sft.past.comparison import Compared
from sft.past.differences import Difference, Measured, why_not
from sft.record.examples import STDERR
from sft.record.metrics import compared, evaluated

SEEDS = ("seed", "lora.seed")
OF_ONE_RUN = (
    *SEEDS,
    "date",
    "run_name",
    "version",
    "service.base_url",
    "service.root",
    "tracking.",
    "hooks",
)
"""Settings that repeats of one configuration may differ in."""
MADE_FROM = ("digest", "held_out_digest", "model", "code")
"""Facts that they may not differ in: what the run was made from."""
OF_SEEDS = "chance between seeds, for nothing else differs"
NOT_OF_SEEDS = (
    "(95% intervals: they count which examples were held out, and not chance between seeds, which "
    "runs with other seeds would show)"
)


@dataclass(frozen=True)
class Group:
    """Repeats of one configuration, by their letters."""

    letters: tuple[str, ...]
    runs: tuple[Compared, ...]

    @property
    def label(self) -> str:
        return ", ".join(self.letters)

    def measured(self, metric: str) -> Measured | None:
        """Its runs in `metric`, one for each seed; None if one of them keeps no examples of it."""
        by_seed = {_seeds(run): run for run in self.runs}
        found = [run.examples.get(metric) for run in by_seed.values()]
        known = [examples for examples in found if examples is not None]
        if len(known) < len(found):
            return None
        return Measured(self.label, known, list(by_seed))


def verdicts(runs: Sequence[Compared], letters: Sequence[str]) -> list[str]:
    """A line for each metric and two configurations that are compared in it."""
    groups = _groups(runs, letters)
    repeats_alone = len(groups) == 1
    if repeats_alone:
        groups = [Group((letter,), (run,)) for letter, run in zip(letters, runs, strict=True)]
    metrics, bare = _metrics(runs)
    lines, of_seeds = [], True
    reference = groups[0] if len(groups) == 2 else _best(groups, runs[0])
    for metric in metrics:
        for line, difference in _against(reference, groups, metric):
            lines.append(line)
            of_seeds = of_seeds and (difference is None or difference.same or difference.of_seeds)
    if bare:
        lines.append(f"no interval of {', '.join(bare)}: no examples are kept of them")
    if repeats_alone and len({_seeds(run) for run in runs}) == len(runs):
        return [re.sub(": real$", f": {OF_SEEDS}", line) for line in lines]
    return lines if of_seeds else [*lines, NOT_OF_SEEDS]


def _metrics(runs: Sequence[Compared]) -> tuple[list[str], list[str]]:
    """The metrics that are compared, held-out NLL first; and those that several runs measured of
    which none keeps examples."""
    rows = {name for run in runs for row in run.rows for name in row}
    names = {name for run in runs for name in run.examples}
    # Of a file that cannot be read, nobody knows more than that these had examples.
    names |= {name for run in runs for name in run.unreadable if name + STDERR in rows}
    bare = [
        name
        for name in evaluated(rows)
        if name not in names and sum(bool(run.series(name)) for run in runs) > 1
    ]
    return [*compared(names), *sorted(names - set(compared(names)))], bare


def _seeds(run: Compared) -> tuple[str, ...]:
    return tuple(run.settings.get(key, "") for key in SEEDS)


def _groups(runs: Sequence[Compared], letters: Sequence[str]) -> list[Group]:
    found: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        settings = {k: v for k, v in run.settings.items() if not k.startswith(OF_ONE_RUN)}
        made_from = [run.facts.get(name) for name in MADE_FROM]
        key = json.dumps([settings, made_from], sort_keys=True, default=str)
        found.setdefault(key, []).append(index)
    return [
        Group(tuple(letters[i] for i in chosen), tuple(runs[i] for i in chosen))
        for chosen in found.values()
    ]


def _best(groups: Sequence[Group], first: Compared) -> Group:
    """The group that is best in the metric that the first run goes by."""
    metric = first.settings.get("metric", "eval/nll")
    sign = -1 if first.settings.get("direction") == "maximize" else 1
    measured = [(group.measured(metric), group) for group in groups]
    values = [(sign * found.value, group) for found, group in measured if found is not None]
    return min(values, key=lambda pair: pair[0])[1] if values else groups[0]


def _against(
    reference: Group, groups: Sequence[Group], metric: str
) -> Iterator[tuple[str, Difference | None]]:
    """Each group against `reference`: a line, and the difference if there is one."""
    theirs = reference.measured(metric)
    for group in groups:
        if group is reference:
            continue
        ours = group.measured(metric)
        what = f"{metric}: {group.label} against {reference.label}:"
        if ours is None or theirs is None:
            yield f"{what} not compared: {_lacking([group, reference], metric)}", None
        elif problem := why_not(ours, theirs):
            yield f"{what} {problem}", None
        else:
            difference = Difference.between(ours, theirs)
            yield f"{what} {difference.words()}", difference


def _lacking(groups: Sequence[Group], metric: str) -> str:
    """Why there are no examples of `metric` to compare, with the letters of the runs."""
    of: dict[str, list[str]] = {}
    for group in groups:
        for letter, run in zip(group.letters, group.runs, strict=True):
            if reason := run.lacks(metric):
                of.setdefault(reason, []).append(letter)
    return "; ".join(reason.format(" and ".join(letters)) for reason, letters in of.items())
