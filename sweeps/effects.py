"""Settings of a sweep that cannot have their effect: refused or said before the first trial.

It is as with a run (sft/run/effects.py): what is surely a mistake is bad input, of the rest a
sentence is said, and nothing is said of a default.
"""

from collections.abc import Iterator, Sequence

from sft.config.checking import dotted_values
from sft.config.schema import Settings
from sft.errors import BadInput, nearest
from sft.record.metrics import TRAINING_METRICS
from sft.run.plan import Plan
from sft.sweeps.keys import SweeperKeys
from sft.sweeps.options import Settled
from sft.sweeps.parameters import RATE
from sft.sweeps.scheduling.pruners import FINISHED_BEFORE_MEDIAN
from sft.sweeps.space import SearchSpace

Row = tuple[object, str, str]
"""Whether it is so (as `bool` has it), the key under hydra.sweeper, why it has no effect."""


def check_metrics(options: Settled, settings: Settings, plan: Plan) -> None:
    """Refuse a metric that no trial with these settings will have, and one of which nobody says
    whether less or more is better. Raises `BadInput`."""
    measured = plan.metrics()
    if measured is not None:  # all evaluators say what they measure
        _check_measured(options, settings, plan, measured)
    for metric, direction in zip(options.metrics, options.directions, strict=True):
        if direction is None:
            raise BadInput(
                f"hydra.sweeper.direction: the name of {metric} does not tell whether less or more "
                "of it is better; give minimize or maximize, one for each metric."
            )


def _check_measured(options: Settled, settings: Settings, plan: Plan, measured: set[str]) -> None:
    numbers = {name for name, value in dotted_values(settings) if isinstance(value, int | float)}
    known = measured | {"tokens", "seconds"} | numbers
    for metric in options.metrics:
        if metric in ("eval/nll", "eval/bpb") and plan.held_out is None:
            raise BadInput(
                f"hydra.sweeper.metric={metric}: the data has nothing held out to measure it on; "
                "set dataset.eval_size, or another metric."
            )
        of_the_service = metric.startswith("train/") and not nearest(metric, sorted(known))
        if metric not in known and not of_the_service:
            there = sorted(measured)
            raise BadInput(
                f"hydra.sweeper.metric={metric}: no run will have it{nearest(metric, there)}; "
                f"there will be {', '.join(there)}, tokens, seconds and the numbers of the config, "
                "such as lora.rank."
            )


def judged_at(options: Settled, settings: Settings, plan: Plan) -> list[int]:
    """The steps on the way at which the pruner, or the scheduler, is given a trial's metric."""
    metric = options.metrics[0]
    every = int(metric in TRAINING_METRICS)
    if _measures(plan.evaluators, metric):
        every = settings.eval_every
    elif _measures(plan.infrequent, metric):
        every = settings.evaluators.every
    first = (options.pruner != "none" and options.pruner_min_steps) or 1
    return (
        [step for step in range(every, plan.total_steps, every) if step >= first] if every else []
    )


def is_seldom(options: Settled, plan: Plan) -> bool:
    """Whether the metric is measured every `evaluators.every` steps, not every `eval_every`."""
    metric = options.metrics[0]
    often = metric in TRAINING_METRICS or _measures(plan.evaluators, metric)
    return not often and _measures(plan.infrequent, metric)


def _measures(evaluators: Sequence[object], metric: str) -> bool:
    return any(metric in getattr(evaluator, "metrics", [metric]) for evaluator in evaluators)


def check_scheduler(options: Settled, judged: bool) -> None:
    """Refuse a scheduler that can never pause a trial. Raises `BadInput`."""
    if options.scheduler != "none" and not judged:
        raise BadInput(
            f"hydra.sweeper.scheduler={options.scheduler}: {options.metrics[0]} is not measured "
            "between the first step and the end of a run, so that nothing would ever be paused; "
            "set eval_every to less (evaluators.every for answers), or use scheduler=none."
        )


def check_pruner(options: Settled, judged: bool) -> None:
    """Refuse a pruner that can never prune. Raises `BadInput`."""
    pruner, trials = f"hydra.sweeper.pruner={options.pruner}", options.n_trials
    if options.pruner == "none":
        return
    if not judged:
        raise BadInput(
            f"{pruner}: {options.metrics[0]} is not measured between "
            f"{_first(options)} and the end of a run, so that nothing would ever be pruned; "
            "set eval_every to less (evaluators.every for answers)."
        )
    if trials < 2 or options.pruner == "median" and trials <= FINISHED_BEFORE_MEDIAN:
        others = FINISHED_BEFORE_MEDIAN if options.pruner == "median" else 1
        raise BadInput(
            f"{pruner}: compares with {others} or more other trials, and "
            f"hydra.sweeper.n_trials={trials}; give more trials, or pruner=none."
        )


def _first(options: Settled) -> str:
    if options.pruner_min_steps is None:
        return "the first step"
    return f"step {options.pruner_min_steps} (hydra.sweeper.pruner_min_steps)"


def without_effect(options: Settled, searched: SearchSpace) -> list[str]:
    """A sentence for each setting of the sweep that has no effect."""
    return list(_sentences(options, _rows(options, searched)))


def _sentences(options: Settled, rows: list[Row]) -> Iterator[str]:
    for so, key, why in rows:
        if so:
            yield f"hydra.sweeper.{key}={getattr(options, key)}: {why}"


def _rows(options: Settled, searched: SearchSpace) -> list[Row]:
    default, varied = SweeperKeys(), searched.distributions
    no_pruner = options.pruner == "none"
    seeds = [name for name in ("seed", "lora.seed") if name in varied]
    trials = f"there {'is' if options.n_trials == 1 else 'are'} {options.n_trials} to run"
    return [
        (
            options.beyond,
            "n_trials",
            f"the space has no more points; {options.beyond} more were asked for",
        ),
        (
            options.n_jobs > options.n_trials and options.n_jobs != default.n_jobs,
            "n_jobs",
            trials,
        ),
        (len(options.enqueue) > options.n_trials, "enqueue", f"of these trials, {trials}"),
        (
            options.seed != default.seed and options.sampler == "grid",
            "seed",
            "is of the sampler, and a grid draws nothing; the runs' own is seed",
        ),
        (
            options.extends_itself and len(options.metrics) > 1,
            "extend",
            "with several metrics there is no single best trial that lies on an edge",
        ),
        (
            options.repeats > 1 and seeds,
            "repeats",
            f"changes seed and lora.seed from run to run, and the sweep varies {', '.join(seeds)} "
            "too, so that the trials are not apart in it; do one or the other",
        ),
        (
            options.prior_file and RATE not in varied,
            "warm_start",
            f"is about {RATE}, which the sweep does not vary",
        ),
        (
            options.prior_file and RATE in varied and options.sampler == "grid",
            "warm_start",
            "a grid runs every combination anyway",
        ),
        (
            options.prior_file and options.directions != ["minimize"],
            "warm_start",
            "is for one metric that is minimized",
        ),
        (
            options.pruner_min_steps is not None and no_pruner,
            "pruner_min_steps",
            "there is no pruner: set hydra.sweeper.pruner",
        ),
        (
            options.pruner_reduction != default.pruner_reduction
            and options.pruner in ("none", "median"),
            "pruner_reduction",
            "is of the pruners asha and hyperband",
        ),
        (
            options.pruner == "median" and options.n_jobs >= options.n_trials,
            "pruner",
            "compares with finished trials, and all of these run side by side; lower "
            "hydra.sweeper.n_jobs, or use asha",
        ),
    ]
