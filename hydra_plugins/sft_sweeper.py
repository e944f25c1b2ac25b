"""Names the project's sweeper to Hydra, which loads plugins from this namespace package only.

Imported at every start: nothing heavy here. What the keys mean is checked in sweeps/options.py.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper


@dataclass
class SftSweeperConf:
    """hydra.sweeper.*"""

    _target_: str = "hydra_plugins.sft_sweeper.SftSweeper"

    # Name of the study: a second sweep with the same name goes on with it. null: a new one.
    study_name: str | None = None
    # Where the study lives: null for a journal under outputs/sweeps/STUDY, or any Optuna URL.
    storage: str | None = None

    # What is varied: key -> choice(…), range(…), interval(…); the command line wins.
    params: dict[str, Any] = field(default_factory=dict)
    # tpe, gp, random, grid or cmaes; null: grid where there are only choices and no n_trials.
    sampler: str | None = None
    # Published sweeps to start from: published, a JSON file of one's own, or null.
    warm_start: str | None = None
    # Trials to run first: a list of {key: value}.
    enqueue: list[Any] = field(default_factory=list)
    seed: int = 0

    # Trials in all, earlier ones of the study included, and how many of them at a time.
    n_trials: int | None = None
    n_jobs: int = 4
    # Runs of each configuration, with different seeds; their mean counts.
    repeats: int = 1

    # What is compared: one metric, or a list of them with as many directions.
    metric: Any = "eval/nll"
    direction: Any = "minimize"

    # none, asha, hyperband or median, fed with each evaluation.
    pruner: str = "none"
    pruner_min_steps: int | None = None
    pruner_reduction: int = 3

    # No new trial after so many seconds; an end to all at so many tokens; given up after so many
    # failed trials (null: never).
    timeout: float | None = None
    max_tokens: int | None = None
    max_failures: int | None = 5


class SftSweeper(Sweeper):
    """Hands a sweep over to sweeps/sweeper.py."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        from sweeps.command import run

        code = run(self, arguments)
        if code:
            # Hydra has no way to return a sweep's exit code.
            raise SystemExit(code)


ConfigStore.instance().store(group="hydra/sweeper", name="sft", node=SftSweeperConf, provider="sft")
