"""What a sweep was asked to do: hydra.sweeper.*, checked, then settled by its search space."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sft.config.schema import Settings
from sft.errors import BadInput, nearest, not_one_of
from sft.prior.published import PACKAGED
from sft.record.checkpoints import DIRECTIONS
from sft.record.metrics import known_direction
from sft.sweeps import samplers
from sft.sweeps.keys import SweeperKeys
from sft.sweeps.parameters import MOST_POINTS, RANK, RATE, is_endless
from sft.sweeps.scheduling import NAMES, pruners
from sft.sweeps.space import SearchSpace

EXTEND = (False, True, "auto")


@dataclass
class Options(SweeperKeys):
    """hydra.sweeper.*, as conf and command line give it."""

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Options":
        """The options in `raw`, checked. Raises `BadInput` that names the key."""
        known = [item.name for item in fields(cls)]
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
        """What is compared; the first one is what a single best trial is best in."""
        return self.metric if isinstance(self.metric, list) else [self.metric]

    @property
    def directions(self) -> list[str]:
        """minimize or maximize, for each metric."""
        given = self.direction if isinstance(self.direction, list) else [self.direction]
        return given * len(self.metrics) if len(given) == 1 else given

    def _check(self) -> None:
        for item in fields(self):
            above, value = item.metadata.get("above"), getattr(self, item.name)
            if above is not None and value is not None and value <= above:
                raise BadInput(f"hydra.sweeper.{item.name}={value}: expected more than {above}.")
        for direction in self.directions:
            if direction is not None and direction not in DIRECTIONS:
                raise not_one_of("hydra.sweeper.direction", direction, DIRECTIONS)
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
        if not isinstance(self.extend, bool | str) or self.extend not in EXTEND:
            raise not_one_of("hydra.sweeper.extend", self.extend, ("false", "true", "auto"))
        if self.scheduler not in NAMES:
            raise not_one_of("hydra.sweeper.scheduler", self.scheduler, NAMES)
        if self.scheduler != "none":
            self._check_scheduler(f"hydra.sweeper.scheduler={self.scheduler}")
        name = self.study_name
        if name is not None and (not name or "/" in name or name.startswith(".")):
            raise BadInput(
                f"hydra.sweeper.study_name={name}: it names a folder; use letters, digits, - and _."
            )

    def _check_scheduler(self, named: str) -> None:
        if len(self.metrics) > 1:
            raise BadInput(
                f"{named}: trials with several metrics cannot be ranked on the way; use "
                "scheduler=none or one metric."
            )
        if self.pruner != "none":
            raise BadInput(
                f"{named}: pauses what hydra.sweeper.pruner={self.pruner} would end; use one of "
                "them, and none for the other."
            )

    def check_curves(self, space: SearchSpace) -> None:
        """Refuse curves that cannot be extrapolated. Raises `BadInput`."""
        if self.scheduler != "freeze_thaw":
            return
        if not {RATE, RANK} & space.distributions.keys():
            raise BadInput(
                f"hydra.sweeper.scheduler=freeze_thaw: extrapolates over {RATE} and {RANK}, and "
                "the sweep varies neither; use scheduler=asha, which compares at rungs alone."
            )
        if self.directions[0] != "minimize":
            raise BadInput(
                "hydra.sweeper.scheduler=freeze_thaw: extrapolates a metric that is minimized, as "
                "NLL is; use scheduler=asha."
            )

    def settle(self, space: SearchSpace) -> "Settled":
        """These options, with what follows from the space filled in. Raises `BadInput`."""
        points, sampler, n_trials, beyond = space.points, self.sampler, self.n_trials, 0
        if sampler is None:
            whole = points is not None and n_trials is None
            sampler = "grid" if whole and self.scheduler != "freeze_thaw" else "tpe"
        samplers.make(sampler, space.distributions, self.seed)  # refuses what cannot be
        if points is not None:
            beyond = max(0, (n_trials or 0) - len(points))
            n_trials = min(n_trials or len(points), len(points))
        elif n_trials is None:
            endless = [name for name, d in space.distributions.items() if is_endless(d)]
            reason = (
                f"{endless[0]} is an interval"
                if endless
                else f"the space has more than {MOST_POINTS:,} points"
            )
            raise BadInput(
                f"hydra.sweeper.n_trials: is needed, since {reason}; add hydra.sweeper.n_trials=20."
            )
        if sampler == "grid" and self.scheduler == "freeze_thaw":
            raise BadInput(
                "hydra.sweeper.sampler=grid: has an order of its own, and scheduler=freeze_thaw "
                "chooses who is next; leave the sampler out, or use scheduler=asha."
            )
        if sampler == "grid" and self.enqueue:
            raise BadInput("hydra.sweeper.enqueue: a grid runs every combination anyway.")
        self._check_enqueued(space)
        known = vars(self) | {
            "study_name": default_name(space) if self.study_name is None else self.study_name,
            "sampler": sampler,
            "n_trials": n_trials,
        }
        return Settled(**known, beyond=beyond)

    def _check_enqueued(self, space: SearchSpace) -> None:
        for values in self.enqueue:
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
    def extends_itself(self) -> bool:
        """Whether the sweep goes on beyond an edge without being asked again."""
        return self.extend == "auto"

    @property
    def prior_file(self) -> Path | None:
        """The published tables to start from; None to start from nothing."""
        if self.warm_start in (None, "null", "none", "false", "False"):
            return None
        return PACKAGED if self.warm_start == "published" else Path(str(self.warm_start))


@dataclass(kw_only=True)
class Settled(Options):
    """Options of which nothing is left open."""

    study_name: str
    sampler: str
    n_trials: int
    beyond: int
    """Trials that were asked for and have no point of the space left."""

    def of_runs(self, base: Settings) -> "Settled":
        """With what the runs say themselves if the sweep does not: what is compared, and whether
        less or more of it is better; null where neither they nor its name tell."""
        metrics = [base.metric] if self.metric is None else self.metrics
        directions = [
            given or (base.direction if metric == base.metric else None) or _direction_of(metric)
            for metric, given in zip(metrics, self.directions, strict=True)
        ]
        return replace(self, metric=metrics, direction=directions)


def _direction_of(metric: str) -> str | None:
    """That of a metric of which nobody says it: what is not of an evaluation is a cost."""
    return known_direction(metric) or (None if metric.startswith("eval/") else "minimize")


def default_name(space: SearchSpace) -> str:
    """When and what: 2026-11-24_09-10-31-lr_rank."""
    chosen = next((o.partition("=")[2] for o in space.fixed if o.startswith("sweep=")), None)
    what = chosen or "-".join(n.rpartition(".")[2] for n in space.distributions) or "repeats"
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{what}"[:80]
