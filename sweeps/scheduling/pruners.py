"""Optuna's pruners by name."""

import optuna
from optuna.pruners import BasePruner

from sft.errors import BadInput, nearest

FINISHED_BEFORE_MEDIAN = 4
"""Trials that have to finish before `median` prunes one."""
NAMES = ("none", "asha", "hyperband", "median")


def make(
    name: str, *, min_steps: int = 1, max_steps: int | None = None, reduction: int = 3
) -> BasePruner:
    """The pruner called `name`, which is told of each evaluation. Raises `BadInput`.

    `median` compares with finished trials only: it never prunes trials that all run side by side.
    `asha` compares with those that have reached the same rung before: what it prunes depends on the
    order in which evaluations arrive.

    Args:
        min_steps: training steps before a trial may be pruned (the first rung).
        max_steps: steps of a whole trial; Hyperband plans its brackets with it.
        reduction: one in so many trials goes on from a rung to the next.
    """
    if name not in NAMES:
        raise BadInput(
            f"hydra.sweeper.pruner={name}: expected one of {', '.join(NAMES)}"
            f"{nearest(name, list(NAMES))}."
        )
    if min_steps < 1:
        raise BadInput(f"hydra.sweeper.pruner_min_steps={min_steps}: expected 1 or more steps.")
    if reduction < 2:
        raise BadInput(f"hydra.sweeper.pruner_reduction={reduction}: expected 2 or more.")
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=FINISHED_BEFORE_MEDIAN, n_warmup_steps=min_steps
        )
    if name == "asha":
        # Optuna's "auto" would wait for a finished trial to guess the first rung from.
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=min_steps, reduction_factor=reduction
        )
    return optuna.pruners.HyperbandPruner(
        min_resource=min_steps,
        max_resource=max(max_steps or min_steps, min_steps),
        reduction_factor=reduction,
    )
