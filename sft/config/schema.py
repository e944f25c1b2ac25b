"""The schema of the command line and of the saved config: every key, its type, default, bounds.

The YAML files under conf/ choose among these; a key that is not here does not exist.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sft.keys import group, key, keys_of
from sft.losses import LOSSES
from sft.record.checkpoints import DIRECTIONS
from sft.rendering.conversations import TRAIN_ON_WHAT
from sft.schedules import SCHEDULES
from sft.tokens.datums import REDUCTIONS

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "sft"

AUTO: Literal["auto"] = "auto"
"""The learning rate that `sft.run.plan` finds once the length of the run is known."""

VERSION = 1
"""Of the saved config. A key that changes its meaning or its name raises it."""


@dataclass
class ModelSettings:
    name: str = key("", "Hub id, the service's id of the model, or a local folder")
    tokenizer: str | None = key(None, "Hub id or folder of the tokenizer; null: the model's name")
    renderer: str | None = key(
        None, "null: the tokenizer's own chat template; role_colon for base models"
    )
    chat_template_kwargs: dict[str, Any] = key({}, "handed to the chat template")


@dataclass
class LoraSettings:
    rank: int = key(32, "rank of the adapter", minimum=1)
    train_attn: bool = key(True, "adapt the attention projections")
    train_mlp: bool = key(True, "adapt the MLP projections")
    train_unembed: bool = key(True, "adapt the unembedding")
    seed: int = key(0, "seed of the adapter's initialisation", minimum=0)


@dataclass
class AdamW:
    kind: str = key("adamw", "AdamW with bias correction and decoupled weight decay")
    beta1: float = key(0.9, "decay of the mean of gradients", minimum=0, below=1)
    beta2: float = key(0.95, "decay of the mean of squared gradients", minimum=0, below=1)
    eps: float = key(1e-8, "added to the denominator", above=0)
    weight_decay: float = key(0.0, "decoupled weight decay", minimum=0)
    grad_clip_norm: float = key(0.0, "largest gradient norm; 0: no clipping", minimum=0)


@dataclass
class Dimuon:
    kind: str = key("dimuon", "Dimuon, where the service has it (the local one has not)")
    beta1: float = key(0.9, "decay of the momentum", minimum=0, below=1)
    grad_clip_norm: float = key(0.0, "largest gradient norm; 0: no clipping", minimum=0)


@dataclass
class ServiceSettings:
    kind: str = key("local", "who trains", choices=("local", "tinker", "custom"))
    base_url: str | None = key(None, "URL of a service that speaks the Tinker API (custom)")
    root: str = key("outputs/service", "folder of the local service's checkpoints (local)")
    dtype: str = key(
        "auto",
        "of the base model (local); auto: bfloat16 where the processor is fast at it, else float32",
        choices=("auto", "float32", "bfloat16"),
    )


@dataclass
class TrackingSettings:
    uri: str | None = key(DEFAULT_URI, "MLFLOW_TRACKING_URI where set; null: no tracking")
    experiment: str = key(DEFAULT_EXPERIMENT, "MLFLOW_EXPERIMENT_NAME where set")
    keep_data_mb: float = key(
        0.0,
        "keep local files of data with the run in MLflow, if they have so many megabytes in all "
        "at most",
        minimum=0,
    )
    system_metrics: bool = key(
        True, "CPU, memory and GPU of a run of ten seconds or more, as system/…"
    )
    also: dict[str, Any] = key(
        {}, "trackers beside MLflow, each with its options, as tracking=[mlflow,wandb] sets it"
    )


@dataclass
class EvaluatorSettings:
    held_out_answers: int = key(1, "held-out prompts answered before and after", minimum=0)
    max_tokens: int = key(64, "longest answer, tokens", minimum=1)
    prompts: list[str] = key([], "further prompts to answer, each one user message")
    references: list[str] | None = key(None, "expected answers to `prompts`, for exact match")
    temperature: float = key(0.0, "of the answers to `prompts`; 0: the likeliest token", minimum=0)
    every: int = key(0, "steps between answers; 0: before the first step and at the end", minimum=0)
    builder: str | None = key(None, "my_module:MyBuilder, an EvaluatorBuilder of your own")
    args: dict[str, Any] = key({}, "the builder's own fields")
    often: bool = key(False, "run it with held-out NLL (eval_every), not with the answers")
    further: list[Any] = key([], "more of them, each {builder: …, args: {…}, often: …}")


@dataclass
class CheckpointSettings:
    every_tokens: int = key(0, "trained tokens between checkpoints; 0: off", minimum=0)
    every_seconds: float = key(0.0, "seconds between checkpoints; 0: off", minimum=0)
    rolling_every: int = key(0, "steps between checkpoints that replace each other", minimum=0)
    rolling_ttl_seconds: int | None = key(604_800, "life of a rolling checkpoint", minimum=1)
    ttl_seconds: int | None = key(None, "life of a periodic checkpoint; null: for ever", minimum=1)
    keep: int = key(0, "newest periodic checkpoints to keep beside the best; 0: all", minimum=0)
    load: str | None = key(
        None, "tinker://RUN/weights/NAME or models:/NAME@ALIAS to start from, weights alone"
    )
    step: int | None = key(
        None,
        "go on behind so many steps of `load`, with its optimizer and place in the schedule",
        minimum=1,
    )


@dataclass
class PriceSettings:
    train: float | None = key(
        None, "USD per million tokens trained on; null: as conf/prices.yaml (tinker)", minimum=0
    )
    prefill: float | None = key(None, "the same for tokens of prompts", minimum=0)
    cached_prefill: float | None = key(
        None, "the same for tokens of prompts that the service has cached", minimum=0
    )
    sample: float | None = key(None, "the same for tokens that are generated", minimum=0)
    source: str | None = key(None, "where these prices are from, for the record")


@dataclass
class CostSettings:
    confirm_above_usd: float | None = key(
        10.0, "ask before a run or a sweep that may cost more; null, or --yes: never", minimum=0
    )
    refresh_prices: bool = key(False, "ask the provider for today's prices first (tinker)")


@dataclass
class BudgetSettings:
    usd: float | None = key(
        None, "USD that the run may cost; it ends with a checkpoint before they are passed", above=0
    )


@dataclass
class EarlyStoppingSettings:
    patience: int = key(0, "end after so many evaluations without a better one; 0: off", minimum=0)


@dataclass
class GuardSettings:
    rise: float = key(3.0, "end when train/nll is so many nats above the first step's", above=0)
    steps: int = key(3, "for so many steps in a row; 0: off", minimum=0)


def _of_kind(kind: str, keys: type, help: str) -> type:
    """The dataclass `keys` with its `kind` in front, as a group of the config."""
    own = [("kind", str, key(kind, help)), *keys_of(keys)]
    return dataclasses.make_dataclass(keys.__name__, own)


KINDS: dict[str, dict[str, type]] = {
    "optimizer": {"adamw": AdamW, "dimuon": Dimuon},
    "schedule": {
        kind: _of_kind(kind, keys, "shape of the learning rate") for kind, keys in SCHEDULES.items()
    },
}
"""Groups whose keys depend on their `kind`, beside `dataset`."""


@dataclass
class Settings:
    """One run, as composed on the command line and as saved in config.yaml."""

    lr: float | Literal["auto"] = key(
        AUTO, "peak learning rate; auto: by published sweeps of models like it", above=0
    )
    epochs: int = key(1, "passes over the data", minimum=1)
    max_steps: int | None = key(None, "end after so many steps; null: the whole data", minimum=1)
    batch_size: int = key(8, "sequences a step", minimum=1)
    max_length: int = key(1024, "longest sequence, tokens; longer ones are cut", minimum=2)
    train_on_what: str = key(
        "all_assistant_messages",
        "messages that carry loss",
        choices=TRAIN_ON_WHAT,
    )
    loss: str = key("cross_entropy", "what a step minimises", choices=tuple(LOSSES))
    reduction: str = key(
        "mean", "mean: every sequence counts the same; none: every token", choices=REDUCTIONS
    )
    seed: int = key(0, "order of the data", minimum=0)
    date: str | None = key(
        None, "the day that a chat template writes as today's, as 2026-11-30; null: the run's first"
    )
    eval_every: int = key(0, "steps between evaluations; 0: before and after", minimum=0)
    save_every: int = key(0, "steps between checkpoints; 0: only at the end", minimum=0)
    metric: str = key(
        "eval/nll",
        "what the best checkpoint is best in, early stopping waits for, a sweep compares",
    )
    direction: str | None = key(
        None,
        "whether less or more of it is better; null: as its name tells (nll, bpb, accuracy, …)",
        choices=DIRECTIONS,
    )
    submit_ahead: int = key(1, "steps queued before the oldest is awaited", minimum=0)
    run_name: str | None = key(None, "null: made from what differs from the defaults")
    run_dir: str | None = key(None, "null: outputs/DATE/TIME-NAME")
    hooks: list[str] = key(
        [], "my_module:MyHook, hooks of your own that follow the run (sft/hooks.py); or a list"
    )

    model: ModelSettings = group(ModelSettings, "what is trained")
    dataset: Any = group(dict, "what it is trained on")
    lora: LoraSettings = group(LoraSettings, "the adapter")
    optimizer: Any = group(KINDS["optimizer"]["adamw"], "the optimizer")
    schedule: Any = group(KINDS["schedule"]["linear"], "the learning rate over time")
    service: ServiceSettings = group(ServiceSettings, "where it is trained")
    tracking: TrackingSettings = group(TrackingSettings, "where results go")
    evaluators: EvaluatorSettings = group(EvaluatorSettings, "what is measured beside held-out NLL")
    checkpoint: CheckpointSettings = group(CheckpointSettings, "when to save and for how long")
    early_stopping: EarlyStoppingSettings = group(EarlyStoppingSettings, "when to end early")
    guard: GuardSettings = group(GuardSettings, "when to give a diverging run up")
    prices: PriceSettings = group(PriceSettings, "what tokens cost")
    cost: CostSettings = group(CostSettings, "what is asked before money is spent")
    budget: BudgetSettings = group(BudgetSettings, "what a run may spend")


LARGEST_LOCAL_RANK = 1024
"""Of the local service. The SDK's capabilities have no field for what a service takes."""


def default(path: str) -> Any:
    """The default of the dotted key `path`; of a group with kinds, that of its usual kind."""
    value: Any = Settings()
    for name in path.split("."):
        value = getattr(value, name)
    return value
