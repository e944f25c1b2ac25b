"""A study's trials as plain rows, and what they say: best trial, smallest rank, savings."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.ledger import DIVERGED, ERROR, SURPLUS
from sweeps.warm_start import RANK, TOLERANCE


@dataclass
class Result:
    """One trial."""

    number: int
    params: dict[str, Any]
    state: str  # complete, pruned, diverged, failed, running, waiting
    values: list[float] = field(default_factory=list)  # of a complete trial, a value a metric
    spread: float | None = None  # standard deviation between repeats, of the first metric
    curve: dict[int, float] = field(default_factory=dict)  # step -> first metric
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    error: str | None = None
    checkpoint: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)


@dataclass
class Results:
    """A study: its trials, what it compares, and what is known of the sweep."""

    name: str
    trials: list[Result]
    metrics: list[str]
    directions: list[str]
    space: dict[str, str]
    command: list[str]  # overrides that every trial shares
    price: float | None = None  # per million tokens

    @classmethod
    def of(cls, study: optuna.Study) -> "Results":
        facts = study.user_attrs.get("sweep", {})
        return cls(
            name=study.study_name,
            trials=[
                _result(t) for t in study.get_trials(deepcopy=False) if SURPLUS not in t.user_attrs
            ],
            metrics=facts.get("metric") or ["value"] * len(study.directions),
            directions=[direction.name.lower() for direction in study.directions],
            space=facts.get("space", {}),
            command=study.user_attrs.get("command", []),
            price=study.user_attrs.get("price_per_million_tokens"),
        )

    @property
    def complete(self) -> list[Result]:
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def minimize(self) -> bool:
        return self.directions[0] == "minimize"

    @property
    def tokens(self) -> int:
        return sum(trial.tokens for trial in self.trials)

    def is_better(self, a: float, b: float) -> bool:
        return a < b if self.minimize else a > b

    def best(self, among: Sequence[Result] | None = None) -> Result | None:
        """The complete trial with the best first metric."""
        trials = self.complete if among is None else among
        key = (lambda t: t.values[0]) if self.minimize else (lambda t: -t.values[0])
        return min(trials, key=key, default=None)

    def front(self) -> list[Result]:
        """Complete trials that no other one beats in every metric (a Pareto front)."""
        signs = [1 if direction == "minimize" else -1 for direction in self.directions]

        def costs(trial: Result) -> list[float]:
            return [sign * value for sign, value in zip(signs, trial.values, strict=True)]

        def beats(a: Result, b: Result) -> bool:
            pairs = list(zip(costs(a), costs(b), strict=True))
            return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

        return [t for t in self.complete if not any(beats(o, t) for o in self.complete)]

    @property
    def noise(self) -> tuple[float, str]:
        """What counts as a difference in the first metric, and where that comes from: the spread
        between repeats (pooled over trials) or, without repeats, half a percent of the best."""
        spreads = [trial.spread for trial in self.complete if trial.spread is not None]
        if spreads:
            pooled = math.sqrt(statistics.fmean(spread**2 for spread in spreads))
            return pooled, "the spread between repeats"
        best = self.best()
        return (TOLERANCE * abs(best.values[0]) if best else 0.0), "0.5%"

    def smallest_rank(self) -> Result | None:
        """The best trial of the smallest rank whose best is within the noise of the best."""
        best = self.best()
        ranked = [trial for trial in self.complete if RANK in trial.params]
        if best is None or not ranked:
            return None
        for rank in sorted({trial.params[RANK] for trial in ranked}):
            candidate = self.best([t for t in ranked if t.params[RANK] == rank])
            if abs(candidate.values[0] - best.values[0]) <= self.noise[0]:
                return candidate
        return None

    def saved(self) -> dict[int, int]:
        """Tokens that each pruned or diverged trial was spared, against a whole trial."""
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
        spread=statistics.stdev(repeats) if len(repeats) > 1 else None,
        curve=dict(sorted(trial.intermediate_values.items())),
        steps=attrs.get("steps", 0),
        tokens=attrs.get("tokens", 0),
        seconds=attrs.get("seconds", 0.0),
        error=attrs.get(ERROR),
        checkpoint=attrs.get("best") or attrs.get("checkpoint") or {},
        directories=[str(Path(path)) for path in attrs.get("directories", [])],
    )
