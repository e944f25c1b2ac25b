"""Checking a config against the schema: every key known, of its type and within its bounds."""

from __future__ import annotations

import dataclasses
import math
import types as python_types
import typing
from typing import Any

from sft.config.data_kinds import INNER, SHARED, dataset_schema, inner_schema
from sft.config.schema import KINDS, LARGEST_LOCAL_RANK, Settings
from sft.config.secrets import refuse
from sft.data.mixing.builder import check_parts
from sft.data.mixing.named_sets import check_names
from sft.datasets import BUILDERS
from sft.errors import BadInput, nearest, not_one_of


def schema_of(group: str, kind: Any) -> type:
    """The dataclass of the keys of a group whose keys depend on its kind. Raises `BadInput`."""
    if group == "dataset":
        return dataset_schema(str(kind or "faq"))
    kinds = KINDS[group]
    if kind is None:
        return next(iter(kinds.values()))
    if kind not in kinds:
        raise not_one_of(f"{group}.kind", kind, kinds)
    return kinds[kind]


def kinds_of_groups() -> dict[str, dict[str, type]]:
    """The groups whose keys depend on their kind, with the dataclass of each kind's keys."""
    return KINDS | {"dataset": {kind: dataset_schema(kind) for kind in (*BUILDERS, "custom")}}


def check(raw: dict[str, Any]) -> Settings:
    """`raw` as `Settings`, every key known, of its type and within its bounds. Raises `BadInput`.

    Nothing in `raw` is interpolated here: it is plain data.
    """
    raw = dict(raw)
    if isinstance(one := raw.get("hooks"), str):
        raw["hooks"] = [one]
    groups = {name: _plain(raw, name) for name in (*KINDS, "dataset")}
    schemas = {name: schema_of(name, groups[name].get("kind")) for name in groups}
    settings = _build(Settings, {k: v for k, v in raw.items() if k not in groups})
    for name, schema in schemas.items():
        setattr(settings, name, _build(schema, groups[name], f"{name}."))
    _name_inner_data(settings.dataset)
    _check_together(settings)
    refuse(dataclasses.asdict(settings))
    return settings


def _plain(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise BadInput(f"{name}: '{value}' is not a group of keys")
    return value


def _name_inner_data(dataset: Any) -> None:
    """Check the parts of a mixture and the held-out sets by name, and complete their keys.

    One that does not say what it does with lost words or control tokens does as the whole does.
    """
    for group in INNER:
        entries = getattr(dataset, group, None) or {}
        made: dict[str, Any] = {}
        for name, entry in entries.items():
            path = f"dataset.{group}.{name}"
            if not isinstance(entry, dict):
                raise BadInput(f"{path}: '{entry}' is not a group of keys")
            schema, kind = inner_schema(group, entry, path)
            own = {item.name for item in dataclasses.fields(schema)}
            shared = {key: getattr(dataset, key, None) for key in SHARED if key in own}
            shared = {key: value for key, value in shared.items() if value is not None}
            values = {**shared, **entry, "kind": kind}
            made[str(name)] = dataclasses.asdict(_build(schema, values, f"{path}."))
        if hasattr(dataset, group):
            setattr(dataset, group, made)
    parts, sets = getattr(dataset, "parts", {}), getattr(dataset, "eval_sets", {})
    if dataset.kind == "mix":
        check_parts({name: part["weight"] for name, part in parts.items()})
    check_names(sets, "dataset.eval_sets", parts)


def _build(schema: type, raw: dict[str, Any], prefix: str = "") -> Any:
    """An instance of the dataclass `schema` from `raw`, recursively."""
    fields = {item.name: item for item in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    values = {}
    for name, value in raw.items():
        if name not in fields:
            raise unknown_key(f"{prefix}{name}", [f"{prefix}{known}" for known in fields])
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise BadInput(f"{prefix}{name}: '{value}' is not a group of keys")
            values[name] = _build(hint, value, f"{prefix}{name}.")
        else:
            values[name] = _convert(value, hint, fields[name], f"{prefix}{name}")
    for name, item in fields.items():
        if item.default == "???" and values.get(name, "???") == "???":
            help = item.metadata.get("help")
            raise BadInput(f"{prefix}{name}: is missing; it takes {help or 'a value'}")
    return schema(**values)


def check_fields(made: type, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """`values` with those of the fields of `made` that are keys (`sft.keys.key`) checked: of their
    type and within their bounds. Of other fields only text is: what YAML reads as something else
    would be saved as that. Raises `BadInput`."""
    keys = {item.name: item for item in dataclasses.fields(made) if "help" in item.metadata}
    hints, checked = _hints(made), dict(values)
    for name, value in values.items():
        if value is not None and hints.get(name) in (str, str | None):
            checked[name] = value = _text(value, f"{prefix}{name}")
        if name in keys:
            checked[name] = _convert(value, hints[name], keys[name], f"{prefix}{name}")
    return checked


def _hints(made: type) -> dict[str, Any]:
    """The types of the fields of `made`; of a class that names what it has not imported, none."""
    try:
        return typing.get_type_hints(made)
    except NameError:
        return {}


def unknown_key(name: str, known: list[str]) -> BadInput:
    """The error for a key that does not exist, with the nearest of all keys."""
    valid = [*known, *(path for path, _ in dotted_values())]
    group = name.rpartition(".")[0]
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == group]
    where = f"; {group} takes {', '.join(siblings)}" if group and siblings else ""
    return BadInput(f"{name}: there is no such key{nearest_key(name, valid)}{where}")


OTHER_NAMES = {
    "learning_rate": "lr",
    "peak_lr": "lr",
    "lora_r": "lora.rank",
    "r": "lora.rank",
    "lora_rank": "lora.rank",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "max_seq_length": "max_length",
    "lr_schedule": "schedule.kind",
    "lr_scheduler_type": "schedule.kind",
    "warmup": "schedule.warmup_steps",
    "eval_steps": "eval_every",
    "save_steps": "save_every",
    "save_total_limit": "checkpoint.keep",
    "max_grad_norm": "optimizer.grad_clip_norm",
    "log_path": "run_dir",
    "output_dir": "run_dir",
    "tracking_uri": "tracking.uri",
    "experiment_name": "tracking.experiment",
    "price_per_million_tokens": "prices.train",
    "budget": "budget.usd",
}
"""What the Python API, the Tinker cookbook, Hugging Face and MLflow call our keys."""


def nearest_key(name: str, valid: list[str]) -> str:
    """`"; did you mean 'lora.rank'?"`: by another name that people know, by its last part if
    that is a key's (`rank`), or by its letters."""
    last = name.rpartition(".")[2]
    same_last = sorted({key for key in valid if key.rpartition(".")[2] == last and key != name})
    if known := OTHER_NAMES.get(last):
        return f"; did you mean '{known}'?"
    if len(same_last) == 1:
        return f"; did you mean '{same_last[0]}'?"
    for word in last.split("_"):  # lr_rate
        if word in valid and word != last:
            return f"; did you mean '{word}'?"
    return nearest(name, valid)


def _convert(value: Any, hint: Any, item: dataclasses.Field, path: str) -> Any:
    """`value` as the type that `hint` names, within the bounds in the field's metadata."""
    if value is None:
        if not _optional(hint):
            raise BadInput(f"{path}: is null; it takes {_describe(hint, item)}")
        return None
    inner, words = _inner(hint), _words(hint)
    bad = BadInput(f"{path}: {value!r} is not {_describe(hint, item)}")
    if words and isinstance(value, str):
        if value not in words:
            raise BadInput(f"{bad}{nearest(value.lower(), words)}")
        return value
    origin = typing.get_origin(inner) or inner
    if inner is Any:
        return value
    if origin in (dict, list):
        if not isinstance(value, origin):
            raise bad
        if origin is list and typing.get_args(inner) == (str,):
            value = [_text(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return value
    if inner is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if inner is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(inner, type) and (
        not isinstance(value, inner) or (inner is int and isinstance(value, bool))
    ):
        raise bad
    bounds = item.metadata
    outside = (
        ("minimum" in bounds and value < bounds["minimum"])
        or ("above" in bounds and not value > bounds["above"])
        or ("below" in bounds and not value < bounds["below"])
        or (isinstance(value, float) and not math.isfinite(value))
    )
    if outside:
        raise bad
    if (choices := bounds.get("choices")) and value not in choices:
        raise not_one_of(path, value, choices)
    return value


def _text(value: Any, path: str) -> str:
    """A text of one's own. A whole number is one; of `1.50`, `nan` or `yes`, YAML has made
    something that is no longer what was written."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise BadInput(f"{path}: {value!r} is not text; write it in quotes")


def _optional(hint: Any) -> bool:
    return hint is Any or type(None) in typing.get_args(hint)


def _inner(hint: Any) -> Any:
    """The type inside `X | None` or `X | Literal[…]`; `X | Y` becomes Any (the builder checks)."""
    if _is_union(hint):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        options = [o for o in options if typing.get_origin(o) is not typing.Literal] or options
        return options[0] if len(options) == 1 else Any
    if typing.get_origin(hint) is typing.Literal:
        return str
    return hint


def _is_union(hint: Any) -> bool:
    return isinstance(hint, python_types.UnionType) or typing.get_origin(hint) is typing.Union


def _words(hint: Any) -> list[str]:
    """The words that a key takes in place of its type: of `float | Literal["auto"]`, auto."""
    options = typing.get_args(hint) if _is_union(hint) else ()
    literals = [o for o in options if typing.get_origin(o) is typing.Literal]
    return [word for literal in literals for word in typing.get_args(literal)]


def _describe(hint: Any, item: dataclasses.Field) -> str:
    """What a key takes, for people: type, bounds, meaning."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    inner = _inner(hint)
    words = names.get(inner, "a list" if typing.get_origin(inner) is list else "a group of keys")
    bounds = item.metadata
    if "minimum" in bounds:
        words += f" of {bounds['minimum']} or more"
    if "above" in bounds:
        words += f" above {bounds['above']}"
    if "below" in bounds:
        words += (
            f"{' and' if 'minimum' in bounds or 'above' in bounds else ''} below {bounds['below']}"
        )
    for word in [*_words(hint), *["null"] * _optional(hint)]:
        words += f" or {word}"
    return f"{words} ({bounds['help']})" if bounds.get("help") else words


def _check_together(settings: Settings) -> None:
    """What only several keys together can get wrong."""
    service, model = settings.service, settings.model
    if not model.name:
        raise BadInput("model.name: is missing; name a model: model=smollm2 or model.name=FOLDER")
    if service.kind == "custom" and not service.base_url:
        raise BadInput("service.base_url: is missing; service=custom needs the service's URL")
    if service.kind != "custom" and service.base_url:
        raise BadInput("service.base_url: is for service=custom; add service=custom")
    if service.kind == "local" and settings.lora.rank > LARGEST_LOCAL_RANK:
        raise BadInput(
            f"lora.rank: {settings.lora.rank} is more than the local service takes; use "
            f"{LARGEST_LOCAL_RANK} or less"
        )
    if service.base_url and not service.base_url.startswith(("http://", "https://")):
        raise BadInput(f"service.base_url: '{service.base_url}' is not an http(s):// URL")
    if settings.max_steps and settings.schedule.warmup_steps > settings.max_steps:
        raise BadInput(
            f"schedule.warmup_steps: {settings.schedule.warmup_steps} is more than "
            f"max_steps={settings.max_steps}"
        )
    references, prompts = settings.evaluators.references, settings.evaluators.prompts
    if references is not None and len(references) != len(prompts):
        raise BadInput(
            f"evaluators.references: {len(references)} references for {len(prompts)} prompts"
        )


def dotted_values(settings: Settings | None = None) -> list[tuple[str, Any]]:
    """Every key with its value, dotted, in the order of the schema (defaults without settings)."""
    return list(_walk(settings if settings is not None else Settings()))


def _walk(node: Any, prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value
