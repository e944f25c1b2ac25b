"""The saved config, and the one way from settings to `train.Config` and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.checking import check
from sft.errors import BadInput
from sft.schema import VERSION, AdamW, Dimuon, Settings
from sft.secrets import without_secrets

if TYPE_CHECKING:
    from sft.train import Config
    from sft.types import SupervisedDatasetBuilder

NOT_SAVED = ("run_dir",)
"""Keys that say where a run is, not what it is."""


def to_saved(settings: Settings) -> dict[str, Any]:
    """The saved config: plain nested values and the schema's version, without secrets."""
    values = dataclasses.asdict(settings)
    saved = {"version": VERSION} | {k: v for k, v in values.items() if k not in NOT_SAVED}
    return without_secrets(saved)


def dump(saved: dict[str, Any]) -> str:
    """The saved config as YAML."""
    import yaml

    return yaml.safe_dump(saved, sort_keys=False, allow_unicode=True)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, as plain data. Raises `BadInput`."""
    import yaml

    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid"
        raise BadInput(f"{path}{line}: not plain YAML: {problem}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: is not a mapping of keys to values")
    return value


def _loader() -> type:
    """PyYAML's safe loader, which reads `1e-05` as the number that it is (YAML 1.2)."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def from_saved(saved: dict[str, Any], source: str) -> Settings:
    """`Settings` from a saved config. Raises `BadInput`, naming `source`."""
    saved = dict(saved)
    version = saved.pop("version", None)
    if version != VERSION:
        known = {item.name for item in dataclasses.fields(Settings)}
        strange = sorted(set(saved) - known)
        gone = sorted(known - set(saved) - set(NOT_SAVED))
        changed = [f"unknown here: {', '.join(strange)}"] if strange else []
        changed += [f"missing there: {', '.join(gone)}"] if gone else []
        raise BadInput(
            f"{source}: has version {version} of the config, this is version {VERSION}"
            + (f" ({'; '.join(changed)})" if changed else "")
        )
    try:
        return check(saved)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None


def dataset_builder(settings: Settings) -> SupervisedDatasetBuilder:
    """The dataset builder that `settings` name. Raises `BadInput`."""
    from sft.datasets import BUILDERS, custom_builder
    from sft.types import ChatDatasetBuilderCommonConfig

    common = ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=settings.model.tokenizer or settings.model.name,
        renderer_name=settings.model.renderer,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        train_on_what=settings.train_on_what,
        reduction=settings.reduction,
        chat_template_kwargs=dict(settings.model.chat_template_kwargs),
        seed=settings.seed,
    )
    values = {k: v for k, v in dataclasses.asdict(settings.dataset).items() if k != "kind"}
    kind = settings.dataset.kind
    if kind == "custom":
        return custom_builder(values["builder"], values["args"], common)
    return BUILDERS[kind](common_config=common, **values)


def to_train(settings: Settings, log_path: str, base_url: str | None = None) -> Config:
    """The run that `settings` describe, as `train.main` takes it. Raises `BadInput`."""
    from sft.evaluators import SamplingEvaluatorBuilder
    from sft.train import Config

    optimizer, checkpoint, evaluators = settings.optimizer, settings.checkpoint, settings.evaluators
    builders = []
    if evaluators.prompts:
        builders.append(
            SamplingEvaluatorBuilder(
                prompts=list(evaluators.prompts),
                references=evaluators.references,
                model_name_for_tokenizer=settings.model.tokenizer or settings.model.name,
                renderer_name=settings.model.renderer,
                max_tokens=evaluators.max_tokens,
                temperature=evaluators.temperature,
                seed=settings.seed,
                chat_template_kwargs=dict(settings.model.chat_template_kwargs),
            )
        )
    adam = optimizer if isinstance(optimizer, AdamW) else AdamW()
    return Config(
        log_path=log_path,
        model_name=settings.model.name,
        dataset_builder=dataset_builder(settings),
        learning_rate=settings.lr,
        lr_schedule=settings.schedule.kind,
        warmup_steps=settings.schedule.warmup_steps,
        num_epochs=settings.epochs,
        max_steps=settings.max_steps,
        seed=settings.seed,
        lora_rank=settings.lora.rank,
        lora_seed=settings.lora.seed,
        train_attn=settings.lora.train_attn,
        train_mlp=settings.lora.train_mlp,
        train_unembed=settings.lora.train_unembed,
        optimizer=optimizer.kind,
        adam_beta1=optimizer.beta1,
        adam_beta2=adam.beta2,
        adam_eps=adam.eps,
        weight_decay=adam.weight_decay,
        grad_clip_norm=optimizer.grad_clip_norm,
        eval_every=settings.eval_every,
        infrequent_evaluator_builders=builders,
        infrequent_eval_every=evaluators.every,
        held_out_answers=evaluators.held_out_answers,
        held_out_answer_tokens=evaluators.max_tokens,
        save_every=settings.save_every,
        save_every_tokens=checkpoint.every_tokens,
        save_every_seconds=checkpoint.every_seconds,
        rolling_save_every=checkpoint.rolling_every,
        rolling_ttl_seconds=checkpoint.rolling_ttl_seconds,
        ttl_seconds=checkpoint.ttl_seconds,
        keep_checkpoints=checkpoint.keep,
        load_checkpoint_path=checkpoint.load,
        base_url=base_url if base_url is not None else settings.service.base_url,
        submit_ahead=settings.submit_ahead,
        early_stopping_patience=settings.early_stopping.patience,
        guard_rise=settings.guard.rise,
        guard_steps=settings.guard.steps,
    )


def from_train(config: Config) -> dict[str, Any]:
    """The saved config of a run that was started from Python: `to_train` read backwards.

    A builder that is not one of the registered ones is named by its import path.
    """
    from sft.datasets import BUILDERS, import_path

    common = getattr(config.dataset_builder, "common_config", None)
    values = {
        item.name: getattr(config.dataset_builder, item.name)
        for item in dataclasses.fields(config.dataset_builder)
        if item.name != "common_config"
    }
    kinds = {builder: kind for kind, builder in BUILDERS.items()}
    kind = kinds.get(type(config.dataset_builder))
    if kind is None:
        values = {"builder": import_path(type(config.dataset_builder)), "args": values}
    optimizer = Dimuon() if config.optimizer == "dimuon" else AdamW()
    for name in ("weight_decay", "grad_clip_norm"):
        if hasattr(optimizer, name):
            setattr(optimizer, name, getattr(config, name))
    for name in ("beta1", "beta2", "eps"):
        if hasattr(optimizer, name):
            setattr(optimizer, name, getattr(config, f"adam_{name}"))
    prompts = next(
        (b for b in config.infrequent_evaluator_builders if getattr(b, "name", "") == "prompts"),
        None,
    )
    saved: dict[str, Any] = {
        "lr": config.learning_rate,
        "epochs": config.num_epochs,
        "max_steps": config.max_steps,
        "seed": config.seed,
        "eval_every": config.eval_every,
        "save_every": config.save_every,
        "submit_ahead": config.submit_ahead,
        "model": {"name": config.model_name},
        "dataset": {"kind": kind or "custom", **values},
        "lora": {
            "rank": config.lora_rank,
            "train_attn": config.train_attn,
            "train_mlp": config.train_mlp,
            "train_unembed": config.train_unembed,
            "seed": config.lora_seed or 0,
        },
        "optimizer": dataclasses.asdict(optimizer),
        "schedule": {"kind": config.lr_schedule, "warmup_steps": config.warmup_steps},
        "service": {"kind": "custom" if config.base_url else "tinker", "base_url": config.base_url},
        "evaluators": {
            "held_out_answers": config.held_out_answers,
            "max_tokens": config.held_out_answer_tokens,
            "every": config.infrequent_eval_every,
            **(
                {"prompts": prompts.prompts, "references": prompts.references}
                | {"temperature": prompts.temperature}
                if prompts
                else {}
            ),
        },
        "checkpoint": {
            "every_tokens": config.save_every_tokens,
            "every_seconds": config.save_every_seconds,
            "rolling_every": config.rolling_save_every,
            "rolling_ttl_seconds": config.rolling_ttl_seconds,
            "ttl_seconds": config.ttl_seconds,
            "keep": config.keep_checkpoints,
            "load": config.load_checkpoint_path,
        },
        "early_stopping": {"patience": config.early_stopping_patience},
        "guard": {"rise": config.guard_rise, "steps": config.guard_steps},
    }
    if common is not None:
        saved["batch_size"], saved["max_length"] = common.batch_size, common.max_length
        saved["train_on_what"], saved["reduction"] = common.train_on_what, common.reduction
        saved["model"] |= {
            "tokenizer": common.model_name_for_tokenizer,
            "renderer": common.renderer_name,
            "chat_template_kwargs": common.chat_template_kwargs,
        }
    return to_saved(check(saved))
