"""A study's trials as plain rows, and what they say: best trial, smallest rank, savings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sft.cost.prices import dollars
from sft.past import bootstrap
from sft.past.differences import Measured, why_not
from sft.past.uncertainty import Interval, of_difference, of_mean
from sft.record.examples import last_examples
from sft.record.rundir import read_facts
from sft.sweeps.parameters import RANK, RATE, Space
from sft.sweeps.samplers.base import SURPLUS
from sft.sweeps.study.ledger import ERROR, PAUSES, USD
from sft.sweeps.study.liveness import is_paused
from sft.sweeps.study.standing import DIVERGED, STEPS
from sft.sweeps.study.storage import ASKED, OVER
from sft.sweeps.study.wider import space_of


@dataclass
class Result:
    """One trial."""

    number: int
    params: dict[str, Any]
    state: str  # complete, pruned, diverged, failed, paused, running, waiting
    values: list[float] = field(default_factory=list)  # of a complete trial, a value a metric
    repeats: list[float] = field(default_factory=list)  # of the first metric, if there are repeats
    curve: dict[int, float] = field(default_factory=dict)  # step -> first metric
    steps: int = 0
    steps_in_all: int = 0  # to its end; 0 if its data was not read yet
    pauses: list[int] = field(default_factory=list)  # the steps at which it stood still
    tokens: int = 0
    seconds: float = 0.0
    usd: float | None = None  # what its runs cost; None if no price is known
    error: str | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)  # seeds and checkpoint of each repeat
    command: list[str] = field(default_factory=list)  # its overrides, but for its parameters
    directories: list[str] = field(default_factory=list)
    found_rate: float | None = None  # the learning rate that its runs found (lr=auto)
    unreadable: list[str] = field(default_factory=list)  # files of examples, once it is compared

    @property
    def trained_with(self) -> dict[str, Any]:
        """Its parameters, and the learning rate that it found for itself if nobody gave one."""
        return self.params if self.found_rate is None else self.params | {RATE: self.found_rate}

    @property
    def interval(self) -> Interval | None:
        """Of the first metric's mean over the repeats; None without repeats."""
        return of_mean(self.repeats)

    @property
    def seeds(self) -> list[tuple[int, int]]:
        """(seed, lora.seed) of each repeat."""
        return [(run["seed"], run["lora.seed"]) for run in self.runs]


@dataclass(frozen=True)
class Compared:
    """A trial compared with the best one."""

    trial: Result
    behind: float  # by how much the best is ahead in the first metric
    interval: Interval | None  # of `behind`; None if nothing is known of it
    of_examples: int = 0  # how many held-out examples the interval counts chance between
    of_seeds: bool = False  # whether it counts chance between seeds

    @property
    def is_worse(self) -> bool:
        """Whether the interval leaves out that the trial is as good as the best."""
        return self.interval is not None and self.interval.low > 0

    @property
    def is_same(self) -> bool:
        """Whether it has the best one's value."""
        return not self.behind

    @property
    def sources(self) -> str:
        """What chance the interval counts, in words."""
        found = [f"{self.of_examples:,} held-out examples"] * bool(self.of_examples)
        repeats = f"{len(self.trial.repeats)} seeds"
        return " and ".join([*found, *[repeats] * self.of_seeds])


@dataclass
class Results:
    """A study: its trials, what it compares, and what is known of the sweep."""

    name: str
    trials: list[Result]
    metrics: list[str]
    directions: list[str]
    space: dict[str, str]
    price: float | None = None  # of training on a million tokens, in USD
    distributions: Space = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)  # see sweeps/command.py
    _examples: dict[int, Measured | None] = field(default_factory=dict)
    _against: dict[tuple[int, int], Compared] = field(default_factory=dict)

    @classmethod
    def of(cls, study: optuna.Study) -> "Results":
        """What a study holds now, trials that run included."""
        facts = study.user_attrs.get("sweep", {})
        return cls(
            name=study.study_name,
            trials=[
                _result(t) for t in study.get_trials(deepcopy=False) if SURPLUS not in t.user_attrs
            ],
            metrics=facts.get("metric") or ["value"] * len(study.directions),
            directions=[direction.name.lower() for direction in study.directions],
            space=facts.get("space", {}),
            price=study.user_attrs.get("train_price"),
            distributions=space_of(study),
            asked=study.user_attrs.get(ASKED, {}),
        )

    @property
    def complete(self) -> list[Result]:
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def is_under_way(self) -> bool:
        """Whether trials are left to run, as far as the study knows how many it is to have."""
        if self.asked.get(OVER):
            return False
        ended = [t for t in self.trials if t.state not in ("running", "paused", "waiting")]
        return len(ended) < max(len(self.trials), self.asked.get("trials", 0))

    @property
    def minimize(self) -> bool:
        return self.directions[0] == "minimize"

    @property
    def word(self) -> str:
        """What the best value is without judging: the lowest or the highest."""
        return "lowest" if self.minimize else "highest"

    @property
    def tokens(self) -> int:
        """Tokens trained on by all trials."""
        return sum(trial.tokens for trial in self.trials)

    @property
    def usd(self) -> float | None:
        """What all trials have cost; None if no price is known."""
        known = [trial.usd for trial in self.trials if trial.usd is not None]
        return sum(known) if known else None

    def best(self) -> Result | None:
        """The complete trial with the best first metric; None if none is complete."""
        complete = self.complete
        return self._best_of(complete) if complete else None

    def as_good(self, best: Result) -> list[Result]:
        """The complete trials that have the first value of `best`, itself among them."""
        return [trial for trial in self.complete if trial.values[0] == best.values[0]]

    def _best_of(self, trials: Sequence[Result]) -> Result:
        sign = 1 if self.minimize else -1
        return min(trials, key=lambda trial: sign * trial.values[0])

    def front(self) -> list[Result]:
        """Complete trials that no other one beats in every metric (a Pareto front)."""
        signs = [1 if direction == "minimize" else -1 for direction in self.directions]

        def costs(trial: Result) -> list[float]:
            return [sign * value for sign, value in zip(signs, trial.values, strict=True)]

        def beats(a: Result, b: Result) -> bool:
            pairs = list(zip(costs(a), costs(b), strict=True))
            return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

        return [t for t in self.complete if not any(beats(o, t) for o in self.complete)]

    def against(self, best: Result, trial: Result) -> Compared:
        """How far `trial` is behind `best` in the first metric, and what that is worth.

        The interval counts chance between the held-out examples, if the run directories keep
        them, and between seeds, if there are repeats: those of the same seeds are compared seed by
        seed. It does not count that the best was picked among many.
        """
        key = best.number, trial.number
        if key not in self._against:
            self._against[key] = self._compare(best, trial)
        return self._against[key]

    def _compare(self, best: Result, trial: Result) -> Compared:
        sign = 1 if self.minimize else -1
        behind = sign * (trial.values[0] - best.values[0])
        ours, theirs = ([sign * value for value in t.repeats] for t in (trial, best))
        paired = bool(trial.seeds) and trial.seeds == best.seeds
        interval = seeds = of_difference(ours, theirs, paired=paired)
        mine, other = self.examples_of(trial), self.examples_of(best)
        count = 0
        if mine and other and why_not(mine, other) is None:
            count = len(mine.runs[0].totals)
            found = bootstrap.of_difference(mine.runs, other.runs)
            low, high = sorted((sign * found.low, sign * found.high))
            if math.isclose(sign * found.middle, behind, abs_tol=1e-6):  # else trained again since
                interval = Interval(behind, low, high)
                if seeds is not None:
                    of_shares = mine.runs[0].is_share
                    interval = bootstrap.with_seeds(interval, seeds, of_shares=of_shares)
        return Compared(trial, behind, interval, count, seeds is not None)

    def all_against(self, best: Result) -> dict[int, Compared]:
        """Every other complete trial against `best`, by number; none if of none it is known how
        sure a difference is, or if several metrics are compared."""
        if len(self.metrics) > 1:
            return {}
        others = [self.against(best, trial) for trial in self.complete if trial is not best]
        known = any(compared.interval is not None for compared in others)
        return {compared.trial.number: compared for compared in others} if known else {}

    def examples_of(self, trial: Result) -> Measured | None:
        """What the trial's runs made of each held-out example; None if one does not keep it."""
        if trial.number not in self._examples:
            kept = [last_examples(Path(folder)) for folder in trial.directories]
            trial.unreadable = [
                str(Path(folder, one.unreadable[self.metrics[0]]))
                for folder, one in zip(trial.directories, kept, strict=True)
                if self.metrics[0] in one.unreadable
            ]
            runs = [one.examples.get(self.metrics[0]) for one in kept]
            found = [examples for examples in runs if examples is not None]
            whole = bool(found) and len(found) == len(runs)
            self._examples[trial.number] = Measured(str(trial.number), found) if whole else None
        return self._examples[trial.number]

    def by_rank(self) -> list[Compared]:
        """The best trial of each rank, compared with the best of all; smallest rank first."""
        best = self.best()
        if best is None:
            return []
        ranks: dict[int, list[Result]] = {}
        for trial in self.complete:
            if RANK in trial.params:
                ranks.setdefault(trial.params[RANK], []).append(trial)
        return [self.against(best, self._best_of(ranks[rank])) for rank in sorted(ranks)]

    def whole(self, trial: Result) -> int:
        """Tokens of a trial to its end: those of a complete one that is as long.

        If there is none, as many a step as so far.
        """

        def length(of: Result) -> tuple[Any, ...]:
            return of.steps_in_all, of.params.get("batch_size"), of.params.get("max_length")

        alike = [other.tokens for other in self.complete if length(other) == length(trial)]
        if alike or not trial.steps:
            return max(alike, default=0)
        return round(trial.tokens / trial.steps * trial.steps_in_all)

    def saved(self) -> dict[int, int]:
        """Tokens that each trial did not train on which has paused, was pruned or diverged, but
        would have to its end."""
        early = [trial for trial in self.trials if trial.state in ("pruned", "diverged", "paused")]
        return {trial.number: max(0, self.whole(trial) - trial.tokens) for trial in early}

    def money(self, tokens: int) -> str:
        """What training on `tokens` costs; nothing if no price is known."""
        return "" if self.price is None else dollars(tokens * self.price / 1e6)


def _result(trial: FrozenTrial) -> Result:
    attrs = trial.user_attrs
    state = {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())
    repeats = (attrs.get("values") or [[]])[0]
    complete = trial.state == TrialState.COMPLETE
    if is_paused(trial):
        state = "paused"
    directories = [str(Path(path)) for path in attrs.get("directories", [])]
    return Result(
        number=trial.number,
        params=dict(trial.params),
        state="diverged" if attrs.get(DIVERGED) else state,
        values=list(trial.values) if complete else [],
        repeats=repeats if len(repeats) > 1 else [],
        curve=dict(sorted(trial.intermediate_values.items())),
        steps=attrs.get("steps", 0),
        steps_in_all=attrs.get(STEPS, 0),
        pauses=attrs.get(PAUSES, []),
        tokens=attrs.get("tokens", 0),
        seconds=attrs.get("seconds", 0.0),
        usd=attrs.get(USD),
        error=attrs.get(ERROR),
        runs=attrs.get("runs", []),
        command=attrs.get("command", []),
        directories=directories,
        found_rate=None if RATE in trial.params else _found_rate(directories),
    )


def _found_rate(directories: Sequence[str]) -> float | None:
    """The learning rate that `lr=auto` became in a trial's runs, as far as they are here."""
    found = (read_facts(Path(folder)).get("learning_rate") for folder in directories)
    return next((guess["lr"] for guess in found if guess), None)
