"""The keys of hydra.sweeper.*, each declared once.

Imported at every start, by way of hydra_plugins/sft_sweeper.py: nothing heavy here. What keys mean
together is checked in sweeps/options.py.
"""

from dataclasses import dataclass
from typing import Any

from sft.keys import key


@dataclass
class SweeperKeys:
    """What can be written under hydra.sweeper, with the defaults."""

    study_name: str | None = key(
        None, "name of the study; a second sweep of the same name goes on with it; null: a new one"
    )
    storage: str | None = key(
        None, "where the study lives: an Optuna URL; null: a journal in outputs/sweeps/STUDY"
    )
    params: dict[str, Any] = key(
        {}, "what is varied: key -> choice(…), range(…), interval(…); the command line wins"
    )
    sampler: str | None = key(
        None, "who proposes values; null: grid for choices alone without n_trials, else tpe"
    )
    warm_start: str | None = key(
        None, "published sweeps to start from: published, a JSON file of one's own, or null"
    )
    enqueue: list[Any] = key([], "trials to run first: a list of {key: value}")
    seed: int = key(0, "seed of the sampler")
    n_trials: int | None = key(None, "trials in all, earlier ones of the study included", above=0)
    extend: Any = key(
        False,
        "true: an earlier study of the name takes this wider space, and keeps its trials; auto: it "
        "also goes on by itself, within bounds, while its best lies on the edge of its space",
    )
    n_jobs: int = key(4, "trials at a time", above=0)
    repeats: int = key(
        1, "runs of each configuration, with different seeds; their mean counts", above=0
    )
    metric: Any = key(None, "what is compared: one metric, or a list; null: the runs' own `metric`")
    direction: Any = key(
        None,
        "minimize or maximize: one for all, or a list; null: the runs' `direction` of their own "
        "`metric`, else as its name tells; minimize if it is not of an evaluation",
    )
    scheduler: str = key(
        "none",
        "who trains next: none (each trial to its end), or trials that pause at evaluations and go "
        "on if they promise most: freeze_thaw, asha",
    )
    pruner: str = key("none", "what ends trials early, by their evaluations on the way")
    pruner_min_steps: int | None = key(None, "steps of a trial before it may be pruned")
    pruner_reduction: int = key(3, "one in so many trials goes on from a rung to the next")
    timeout: float | None = key(None, "seconds after which no new trial starts", above=0)
    max_tokens: int | None = key(None, "tokens at which the whole sweep ends", above=0)
    budget_usd: float | None = key(
        None, "USD that the whole sweep may cost; trials stop at a checkpoint before", above=0
    )
    max_failures: int | None = key(
        5, "failed trials after which the sweep is given up; null: never", above=0
    )
