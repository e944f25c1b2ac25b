"""`train.Config`: everything that determines one run, as Python gives it.

Most fields are a key of the command line: `of("lora.rank")` takes the key's default from the
schema, and `sft/config/saved.py` carries values from one to the other along these names alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sft.config.schema import AUTO, default
from sft.errors import BadInput, nearest, not_one_of
from sft.losses import LOSSES
from sft.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from sft.evaluators import Evaluator
    from sft.types import SupervisedDatasetBuilder


def of(key: str) -> Any:
    """A field that is the schema's `key`; `GROUP.*` is every key of a group that has no field."""
    if key.endswith(".*"):
        return field(default_factory=dict, metadata={"key": key})
    return field(default=default(key), metadata={"key": key})


@dataclass
class Config:
    """Everything that determines one run. Raises `BadInput` for a schedule that is not there."""

    log_path: str
    """The run directory: made by `main`, or one of an earlier run when it is resumed."""
    model_name: str = field(metadata={"key": "model.name"})
    """A model that the service trains: a Hub id, usually."""
    dataset_builder: SupervisedDatasetBuilder
    """Called once; builds the data to train on and, perhaps, data held out from it."""
    learning_rate: float | Literal["auto"] = of("lr")
    """Peak learning rate, of an update; `auto`: found by published sweeps before the first."""
    lr_schedule: str = of("schedule.kind")
    """A name of `sft.schedules.SCHEDULES`: `linear`, `cosine` or `constant`."""
    warmup_steps: int = of("schedule.warmup_steps")
    """Steps of linear warm-up to the peak, before the schedule's own shape."""
    lr_schedule_args: dict[str, Any] = of("schedule.*")
    """Parameters of a schedule that has some of its own, by name."""
    num_epochs: int = of("epochs")
    """Passes over the data."""
    max_steps: int | None = of("max_steps")
    """End after this many steps; None: the whole data."""
    loss_fn: str = of("loss")
    """What a step minimises: a name of `sft.losses.LOSSES`."""
    seed: int = of("seed")
    """Of the order of the data and of sampled answers."""

    lora_rank: int = of("lora.rank")
    """Rank of the adapter's two factors, the same for every matrix."""
    lora_seed: int = of("lora.seed")
    """Of the initialisation of the adapter."""
    train_attn: bool = of("lora.train_attn")
    """Adapt the attention projections."""
    train_mlp: bool = of("lora.train_mlp")
    """Adapt the projections of the feed-forward blocks."""
    train_unembed: bool = of("lora.train_unembed")
    """Adapt the unembedding (the output projection onto the vocabulary)."""

    optimizer: str = of("optimizer.kind")
    """`adamw`, or `dimuon` if the service has it."""
    adam_beta1: float = of("optimizer.beta1")
    """Decay, per step, of the mean of gradients."""
    adam_beta2: float = of("optimizer.beta2")
    """Decay, per step, of the mean of squared gradients."""
    adam_eps: float = of("optimizer.eps")
    """Added to the root of the mean of squared gradients."""
    weight_decay: float = of("optimizer.weight_decay")
    """Share of the weights, times the learning rate, that a step takes away (decoupled)."""
    grad_clip_norm: float = of("optimizer.grad_clip_norm")
    """Largest L2 norm of a step's gradient; 0: no clipping."""

    evaluator_builders: list[Callable[[], Evaluator]] = field(default_factory=list)
    """Run every `eval_every` steps, before the first and after the last, beside held-out NLL."""
    eval_every: int = of("eval_every")
    """Steps between evaluations; 0: only before the first step and after the last."""
    infrequent_evaluator_builders: list[Callable[[], Evaluator]] = field(default_factory=list)
    """The same for what costs more: run every `infrequent_eval_every` steps."""
    infrequent_eval_every: int = of("evaluators.every")
    """Steps between these evaluations; 0: only before the first step and after the last."""
    held_out_answers: int = of("evaluators.held_out_answers")
    """Answers to that many held-out prompts, with the infrequent evaluations."""
    held_out_answer_tokens: int = of("evaluators.max_tokens")
    """Tokens of the longest such answer."""

    metric: str = of("metric")
    """What the best checkpoint is best in and early stopping waits for; of evaluators."""
    direction: str | None = of("direction")
    """Whether less of `metric` is better or more: `minimize` or `maximize`; None: as its name
    tells, such as `nll` or `accuracy`. One that does not tell has to be given it."""

    save_every: int = of("save_every")
    """Steps between checkpoints; 0: only after the last."""
    save_every_tokens: int = of("checkpoint.every_tokens")
    """Trained tokens between checkpoints; 0: off."""
    save_every_seconds: float = of("checkpoint.every_seconds")
    """Seconds between checkpoints; 0: off."""
    rolling_save_every: int = of("checkpoint.rolling_every")
    """Steps between checkpoints that replace each other; 0: off."""
    rolling_ttl_seconds: int | None = of("checkpoint.rolling_ttl_seconds")
    """Life of a rolling checkpoint on the service, in seconds; None: for ever."""
    ttl_seconds: int | None = of("checkpoint.ttl_seconds")
    """Life of a periodic checkpoint on the service, in seconds; the final one is kept."""
    keep_checkpoints: int = of("checkpoint.keep")
    """Delete older periodic checkpoints beyond this many, but never the best; 0: keep all."""
    load_checkpoint_path: str | None = of("checkpoint.load")
    """`tinker://…/weights/…` to start from: its weights, with a fresh optimizer."""
    load_checkpoint_step: int | None = of("checkpoint.step")
    """Go on behind so many steps of that checkpoint's run, with its optimizer and its place in data
    and schedule. None: train from step 0."""

    base_url: str | None = None
    """The service's URL; None: `TINKER_BASE_URL` or hosted Tinker."""
    submit_ahead: int = of("submit_ahead")
    """Steps that are submitted before the oldest one is awaited."""
    early_stopping_patience: int = of("early_stopping.patience")
    """End after this many evaluations without a better `metric`; 0: never."""
    guard_rise: float = of("guard.rise")
    """End when `train/nll` is this many nats above the first step's for `guard_steps` steps."""
    guard_steps: int = of("guard.steps")
    """Steps in a row; 0: never end a run for this."""

    prices: dict[str, Any] = of("prices.*")
    """USD per million tokens by kind (`train`, `prefill`, `cached_prefill`, `sample`), and their
    `source`; what is not here is, on hosted Tinker, as conf/prices.yaml says."""
    budget_usd: float | None = of("budget.usd")
    """USD that the run may cost: it ends with a checkpoint before they are passed. None: no limit.
    """

    def __post_init__(self) -> None:
        for name, registered in (("lr_schedule", SCHEDULES), ("loss_fn", LOSSES)):
            if (value := getattr(self, name)) not in registered:
                raise not_one_of(name, value, registered)
        schedule = SCHEDULES[self.lr_schedule]
        takes = [item.name for item in dataclasses.fields(schedule) if item.name != "warmup_steps"]
        for name in self.lr_schedule_args:
            if name not in takes:
                raise BadInput(
                    f"lr_schedule_args: {self.lr_schedule} has no {name}{nearest(name, takes)}; "
                    f"it takes {', '.join(takes) or 'none'}"
                )
        self.schedule = schedule(warmup_steps=self.warmup_steps, **self.lr_schedule_args)
        if self.learning_rate == AUTO and self.optimizer != "adamw":
            raise BadInput(
                f"lr: auto is for optimizer=adamw, which the published sweeps used; for "
                f"optimizer={self.optimizer} give a number, such as lr=3e-4"
            )
        if self.submit_ahead < 0:
            raise BadInput(f"submit_ahead: {self.submit_ahead} is below 0")
