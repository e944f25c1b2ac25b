"""What a sweep was asked to do: hydra.sweeper.*, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sft.errors import BadInput, nearest
from sweeps import pruners, samplers
from sweeps.space import SearchSpace

DIRECTIONS = ("minimize", "maximize")


@dataclass
class Options:
    """hydra.sweeper.*, as conf and command line give it; see hydra_plugins/sft_sweeper.py."""

    study_name: str | None = None
    storage: str | None = None
    params: Mapping[str, Any] | None = None
    sampler: str | None = None
    warm_start: str | None = None
    enqueue: list[Any] | None = None
    seed: int = 0
    n_trials: int | None = None
    n_jobs: int = 4
    repeats: int = 1
    metric: Any = "eval/nll"
    direction: Any = "minimize"
    pruner: str = "none"
    pruner_min_steps: int | None = None
    pruner_reduction: int = 3
    timeout: float | None = None
    max_tokens: int | None = None
    max_failures: int | None = 5

    beyond: int = field(default=0, init=False)  # trials asked for where there are no more points

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Options":
        """Raises BadInput that names the key."""
        known = [f.name for f in fields(cls) if f.init]
        for name in raw:
            if name not in known:
                raise BadInput(
                    f"hydra.sweeper.{name}: there is no such key{nearest(name, known)}; "
                    f"hydra.sweeper takes {', '.join(known)}."
                )
        options = cls(**raw)
        options._check()
        return options

    @property
    def metrics(self) -> list[str]:
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    @property
    def directions(self) -> list[str]:
        given = [self.direction] if isinstance(self.direction, str) else list(self.direction)
        return given * len(self.metrics) if len(given) == 1 else given

    def _check(self) -> None:
        for name in ("n_trials", "n_jobs", "repeats", "timeout", "max_tokens", "max_failures"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput(f"hydra.sweeper.{name}={value}: expected more than 0.")
        for direction in self.directions:
            if direction not in DIRECTIONS:
                raise BadInput(
                    f"hydra.sweeper.direction={direction}: expected minimize or maximize"
                    f"{nearest(str(direction), list(DIRECTIONS))}."
                )
        if len(self.directions) != len(self.metrics) or not self.metrics:
            raise BadInput(
                f"hydra.sweeper.direction: {len(self.directions)} directions for "
                f"{len(self.metrics)} metrics; give one for each, or one for all."
            )
        pruners.make(self.pruner, reduction=self.pruner_reduction)
        if len(self.metrics) > 1 and self.pruner != "none":
            raise BadInput(
                f"hydra.sweeper.pruner={self.pruner}: trials with several metrics cannot be "
                "pruned; use pruner=none or one metric."
            )
        if self.pruner == "asha" and self.pruner_min_steps is None:
            raise BadInput(
                "hydra.sweeper.pruner_min_steps: asha needs to know after how many steps it may "
                "first prune; give for instance a tenth of the steps of a run."
            )
        name = self.study_name
        if name is not None and (not name or "/" in name or name.startswith(".")):
            raise BadInput(
                f"hydra.sweeper.study_name={name}: it names a folder; use letters, digits, - and _."
            )

    def settle(self, space: SearchSpace) -> None:
        """Fill in what follows from the space: sampler and number of trials. Raises BadInput."""
        points = space.points
        if self.sampler is None:
            self.sampler = "tpe" if points is None or self.n_trials is not None else "grid"
        samplers.make(self.sampler, space.distributions, self.seed)  # refuses what cannot be
        if points is None and self.n_trials is None:
            endless = next(n for n, d in space.distributions.items() if not hasattr(d, "choices"))
            raise BadInput(
                f"hydra.sweeper.n_trials: is needed, since {endless} is an interval; "
                "add hydra.sweeper.n_trials=20."
            )
        if points is not None:
            self.beyond = max(0, (self.n_trials or 0) - len(points))
            self.n_trials = min(self.n_trials or len(points), len(points))
        if self.sampler == "grid" and self.enqueue:
            raise BadInput("hydra.sweeper.enqueue: a grid runs every combination anyway.")
        self._check_enqueued(space)

    def _check_enqueued(self, space: SearchSpace) -> None:
        for values in self.enqueue or []:
            if not isinstance(values, Mapping):
                raise BadInput(
                    f"hydra.sweeper.enqueue: {values} is not {{key: value}}, such as "
                    "[{lr: 3e-4, lora.rank: 16}]."
                )
            for name, value in values.items():
                distribution = space.distributions.get(name)
                if distribution is None:
                    raise BadInput(
                        f"hydra.sweeper.enqueue: {name} is not part of the search space"
                        f"{nearest(name, list(space.distributions))}."
                    )
                try:
                    inside = distribution._contains(distribution.to_internal_repr(value))
                except ValueError:
                    inside = False
                if not inside:
                    raise BadInput(
                        f"hydra.sweeper.enqueue: {name}={value} lies outside the search space "
                        f"({space.describe()[name]})."
                    )

    @property
    def prior_file(self) -> Path | None:
        """The published tables to start from."""
        from sweeps.prior.published import PACKAGED

        if self.warm_start in (None, "null", "none", "false", "False"):
            return None
        return PACKAGED if self.warm_start == "published" else Path(str(self.warm_start))
