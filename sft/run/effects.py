"""Settings that cannot have their effect: bad input if a run would be another one than was
asked for, else a sentence to read before it starts. A default is never complained of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sft.config.schema import default
from sft.errors import BadInput, nearest

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.config.training import Config
    from sft.run.plan import Plan


def check(config: Config, plan: Plan) -> list[str]:
    """What of `config` has no effect on the run that `plan` describes, a sentence each.

    Raises `BadInput` on an adapter of nothing, on a warm-up that never reaches the peak learning
    rate, and on early stopping without an evaluation to stop by.
    """
    steps = plan.total_steps
    check_adapter(config.train_attn, config.train_mlp, config.train_unembed)
    if config.warmup_steps > steps:
        raise BadInput(
            f"schedule.warmup_steps: {config.warmup_steps} is more than the {steps} steps of this "
            "run, which would never reach its peak learning rate; use fewer, or more epochs"
        )
    _check_start(config, steps)
    _check_metric(config, plan)
    return [*_of_length(config, plan), *_of_evaluations(config, plan), *_of_saves(config, steps)]


def check_adapter(train_attn: bool, train_mlp: bool, train_unembed: bool) -> None:
    """Refuse an adapter that would train nothing. Raises `BadInput`."""
    if not (train_attn or train_mlp or train_unembed):
        raise BadInput(
            "lora: trains nothing; set lora.train_attn, lora.train_mlp or lora.train_unembed"
        )


def _check_start(config: Config, steps: int) -> None:
    """Refuse to go on from nothing, or behind the end. Raises `BadInput`."""
    start = config.load_checkpoint_step
    if start is None:
        return
    if config.load_checkpoint_path is None:
        raise BadInput(
            f"checkpoint.step: {start} steps of what? name the checkpoint by checkpoint.load"
        )
    if start >= steps:
        raise BadInput(
            f"checkpoint.step: the run would begin behind {start} steps and has {steps} in all; "
            "use a larger max_steps, or more epochs"
        )


def _check_metric(config: Config, plan: Plan) -> None:
    """Refuse a metric that no evaluation will measure, unless it is the default and not needed,
    and one of which nobody says whether less or more is better."""
    measured = plan.evaluated()
    unknown = measured is None and config.metric.startswith("eval/")
    if unknown or config.metric in (measured or ()):
        if config.direction is None:
            raise BadInput(
                f"direction: the name of metric={config.metric} does not tell whether less or "
                "more of it is better; add direction=minimize or direction=maximize"
            )
        return
    if config.metric != default("metric"):
        there = ["eval/…"] if measured is None else sorted(measured)
        raise BadInput(
            f"metric: no evaluation measures '{config.metric}'{nearest(config.metric, there)}; "
            f"there will be {', '.join(there) or 'none: set dataset.eval_size, or evaluators'} "
            "(what a sweep alone compares is hydra.sweeper.metric)"
        )
    if config.early_stopping_patience:
        raise BadInput(
            f"early_stopping.patience: {config.early_stopping_patience} evaluations cannot be "
            "waited for, since nothing is held out; set dataset.eval_size, or patience=0"
        )


def _of_length(config: Config, plan: Plan) -> Iterator[str]:
    if config.max_steps and config.max_steps > plan.total_steps:
        epochs = -(-config.max_steps // len(plan.data))
        yield (
            f"max_steps={config.max_steps}: the data ends after {plan.total_steps} steps; "
            f"epochs={epochs} would give that many"
        )

    per_epoch = len(plan.data)
    if config.num_epochs > 1 and plan.total_steps <= per_epoch * (config.num_epochs - 1):
        yield (
            f"epochs={config.num_epochs}: max_steps={config.max_steps} ends the run in epoch "
            f"{-(-plan.total_steps // per_epoch)}"
        )


def _of_evaluations(config: Config, plan: Plan) -> Iterator[str]:
    steps = plan.total_steps
    for key, every, evaluators in (
        ("eval_every", config.eval_every, plan.evaluators),
        ("evaluators.every", config.infrequent_eval_every, plan.infrequent),
    ):
        if every and not evaluators:
            yield f"{key}={every}: there is nothing to evaluate" + (
                "" if plan.held_out else "; dataset.eval_size holds out a part of the data"
            )
        elif every >= steps > 0 and evaluators:
            yield f"{key}={every}: the run has {steps} steps, and is evaluated at both ends only"
    held_out = plan.held_out_sequences
    if config.held_out_answers > 1 and config.held_out_answers > held_out:
        yield (
            f"evaluators.held_out_answers={config.held_out_answers}: {held_out or 'nothing'} "
            "is held out"
        )
    patience, often = config.early_stopping_patience, plan.evaluators
    frequent = any(
        config.metric in getattr(evaluator, "metrics", [config.metric]) for evaluator in often
    )
    every = config.eval_every if frequent else config.infrequent_eval_every
    evaluations = 1 + ((steps - 1) // every if every else 0)
    if patience and evaluations <= patience:
        yield (
            f"early_stopping.patience={patience}: the run has {evaluations} evaluation"
            f"{'s' * (evaluations > 1)} before its end, too few to stop early by; set a smaller "
            f"{'eval_every' if frequent else 'evaluators.every'}"
        )


def _of_saves(config: Config, steps: int) -> Iterator[str]:
    for key, every in (
        ("save_every", config.save_every),
        ("checkpoint.rolling_every", config.rolling_save_every),
    ):
        if every >= steps > 0:
            yield f"{key}={every}: the run has {steps} steps, and is saved at its end only"
    if not (config.save_every or config.save_every_tokens or config.save_every_seconds):
        for key, value in (
            ("checkpoint.keep", config.keep_checkpoints),
            ("checkpoint.ttl_seconds", config.ttl_seconds),
        ):
            if value:
                yield f"{key}={value}: there are no periodic checkpoints; set save_every"


def of_settings(settings: Settings) -> list[str]:
    """The same for what no training loop sees."""
    defaults, found = type(settings)(), []
    if settings.evaluators.temperature and not settings.evaluators.prompts:
        found.append(
            f"evaluators.temperature={settings.evaluators.temperature:g}: is of the answers to "
            "evaluators.prompts, and there are none"
        )
    for name in ("root", "dtype"):
        value = getattr(settings.service, name)
        if settings.service.kind != "local" and value != getattr(defaults.service, name):
            found.append(f"service.{name}={value}: is for service=local alone")
    if settings.tracking.uri is None and settings.tracking.experiment != "sft":
        found.append(f"tracking.experiment={settings.tracking.experiment}: nothing is tracked")
    if settings.tracking.uri is None and settings.tracking.keep_data_mb:
        found.append(
            f"tracking.keep_data_mb={settings.tracking.keep_data_mb:g}: nothing is tracked"
        )
    return found
