"""A study's trials as plain rows, and what they say: best trial, smallest rank, savings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sft.past.uncertainty import Interval, of_difference, of_mean
from sweeps.prior.warm_start import RANK, TOLERANCE
from sweeps.study.ledger import DIVERGED, ERROR, SURPLUS


@dataclass
class Result:
    """One trial."""

    number: int
    params: dict[str, Any]
    state: str  # complete, pruned, diverged, failed, running, waiting
    values: list[float] = field(default_factory=list)  # of a complete trial, a value a metric
    repeats: list[float] = field(default_factory=list)  # of the first metric, if there are repeats
    curve: dict[int, float] = field(default_factory=dict)  # step -> first metric
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    error: str | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)  # seeds and checkpoint of each repeat
    command: list[str] = field(default_factory=list)  # its overrides, but for its parameters
    directories: list[str] = field(default_factory=list)

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
    interval: Interval | None  # of `behind`; None without repeats
    margin: float  # a difference that does not matter: half a percent of the best

    @property
    def verdict(self) -> str:
        """`as good`: within the margin; `worse`; `unknown`: the data cannot tell."""
        if self.interval is None:
            return "unknown"
        if self.interval.high <= self.margin:
            return "as good"
        return "worse" if self.interval.low > 0 else "unknown"


@dataclass
class Results:
    """A study: its trials, what it compares, and what is known of the sweep."""

    name: str
    trials: list[Result]
    metrics: list[str]
    directions: list[str]
    space: dict[str, str]
    price: float | None = None  # per million tokens

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
            price=study.user_attrs.get("price_per_million_tokens"),
        )

    @property
    def complete(self) -> list[Result]:
        return [trial for trial in self.trials if trial.state == "complete"]

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

    def best(self) -> Result | None:
        """The complete trial with the best first metric; None if none is complete."""
        complete = self.complete
        return self._best_of(complete) if complete else None

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

        Repeats of the same seeds are compared seed by seed. The interval does not count that the
        best was picked among many.
        """
        sign = 1 if self.minimize else -1
        ours, theirs = ([sign * value for value in t.repeats] for t in (trial, best))
        return Compared(
            trial,
            sign * (trial.values[0] - best.values[0]),
            of_difference(ours, theirs, paired=bool(trial.seeds) and trial.seeds == best.seeds),
            TOLERANCE * abs(best.values[0]),
        )

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

    def saved(self) -> dict[int, int]:
        """Tokens that each pruned or diverged trial did not train on, but a whole trial would."""
        whole = max((trial.tokens for trial in self.complete), default=0)
        early = [trial for trial in self.trials if trial.state in ("pruned", "diverged")]
        return {trial.number: max(0, whole - trial.tokens) for trial in early}


def _result(trial: FrozenTrial) -> Result:
    attrs = trial.user_attrs
    state = {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())
    repeats = (attrs.get("values") or [[]])[0]
    complete = trial.state == TrialState.COMPLETE
    return Result(
        number=trial.number,
        params=dict(trial.params),
        state="diverged" if attrs.get(DIVERGED) else state,
        values=list(trial.values) if complete else [],
        repeats=repeats if len(repeats) > 1 else [],
        curve=dict(sorted(trial.intermediate_values.items())),
        steps=attrs.get("steps", 0),
        tokens=attrs.get("tokens", 0),
        seconds=attrs.get("seconds", 0.0),
        error=attrs.get(ERROR),
        runs=attrs.get("runs", []),
        command=attrs.get("command", []),
        directories=[str(Path(path)) for path in attrs.get("directories", [])],
    )
