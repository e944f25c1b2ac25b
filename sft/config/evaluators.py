"""Evaluators in the config: those of its prompts, and builders of the user's own.

A builder of one's own is `{builder: module:Name, args: {…}, often: …}`: the keys of that name for
the first, the entries of `evaluators.further` for others. `often` says whether it is run with the
held-out NLL (`eval_every`) or with the answers (`evaluators.every`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sft.config.checking import check_fields
from sft.data.import_path import NOT_IMPORTABLE, build, load_builder
from sft.data.import_path import saved as saved_builder
from sft.errors import BadInput, nearest
from sft.evaluators import EvaluatorBuilder, SamplingEvaluatorBuilder
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.config.training import Config

OWN: dict[str, Any] = {"builder": None, "args": {}, "often": False}


def of_settings(
    settings: Settings, common: ChatDatasetBuilderCommonConfig
) -> dict[str, list[EvaluatorBuilder]]:
    """The two lists of `train.Config`, by its names for them. Raises `BadInput`."""
    chosen = settings.evaluators
    often: list[EvaluatorBuilder] = []
    seldom: list[EvaluatorBuilder] = []
    if chosen.prompts:
        seldom.append(
            SamplingEvaluatorBuilder(
                prompts=list(chosen.prompts),
                references=chosen.references,
                model_name_for_tokenizer=common.model_name_for_tokenizer,
                renderer_name=common.renderer_name,
                max_tokens=chosen.max_tokens,
                temperature=chosen.temperature,
                seed=settings.seed,
                chat_template_kwargs=dict(common.chat_template_kwargs),
                date=common.date,
            )
        )
    first = {name: getattr(chosen, name) for name in OWN}
    for number, entry in enumerate([first, *chosen.further]):
        key = _key(number)
        entry = _checked(entry, key)
        if entry["builder"] is None:
            continue
        made = load_builder(key, entry["builder"], EvaluatorBuilder)
        args = check_fields(made, entry["args"], f"{key}.args.")
        builder = build(key, entry["builder"], args, EvaluatorBuilder, common)
        (often if entry["often"] else seldom).append(builder)
    return {"evaluator_builders": often, "infrequent_evaluator_builders": seldom}


def _checked(entry: Any, key: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise BadInput(f"{key}: expected {{builder: my_module:MyBuilder, args: {{…}}}}")
    for name in entry:
        if name not in OWN:
            raise BadInput(f"{key}.{name}: there is no such key{nearest(name, list(OWN))}")
    entry = OWN | entry
    wanted = entry["args"] or key != "evaluators" or entry["builder"] == ""
    if not entry["builder"] and wanted:
        raise BadInput(f"{key}.builder: is missing; name it: my_module:MyBuilder")
    if not isinstance(entry["args"], dict):
        raise BadInput(f"{key}.args: {entry['args']!r} is not a group of keys")
    return entry


def to_saved(config: Config) -> dict[str, Any]:
    """The keys under `evaluators` that make the builders of `config` again."""
    saved: dict[str, Any] = {}
    own = []
    for often, builders in (
        (True, config.evaluator_builders),
        (False, config.infrequent_evaluator_builders),
    ):
        for builder in builders:
            if not often and "prompts" not in saved and _is_of_prompts(builder, config):
                shown = ("prompts", "references", "temperature")
                saved |= {name: getattr(builder, name) for name in shown}
            else:
                own.append(_own_to_saved(builder, config) | {"often": often})
    if own:
        saved |= own[0] | {"further": own[1:]}
    return saved


def _own_to_saved(builder: Any, config: Config) -> dict[str, Any]:
    """`saved_builder`, but for a builder whose `common_config` is not that of the run: its keys
    would make another one."""
    saved = saved_builder(builder)
    own = getattr(builder, "common_config", None)
    runs = getattr(config.dataset_builder, "common_config", None)
    runs = runs or ChatDatasetBuilderCommonConfig(config.model_name)
    decide = ("model_name_for_tokenizer", "renderer_name", "chat_template_kwargs", "date")
    if own is None or all(getattr(own, name, None) == getattr(runs, name) for name in decide):
        return saved
    path = saved["builder"].removeprefix(NOT_IMPORTABLE)
    return {"builder": f"{NOT_IMPORTABLE}{path} (with its own common_config)", "args": {}}


def _is_of_prompts(builder: Any, config: Config) -> bool:
    """Whether `of_settings` would make this builder of `evaluators.prompts`."""
    common = getattr(config.dataset_builder, "common_config", None)
    return isinstance(builder, SamplingEvaluatorBuilder) and builder == SamplingEvaluatorBuilder(
        prompts=builder.prompts,
        references=builder.references,
        temperature=builder.temperature,
        model_name_for_tokenizer=getattr(common, "model_name_for_tokenizer", config.model_name),
        renderer_name=getattr(common, "renderer_name", None),
        max_tokens=config.held_out_answer_tokens,
        seed=config.seed,
        chat_template_kwargs=getattr(common, "chat_template_kwargs", {}),
        date=getattr(common, "date", None),
    )


def named(saved: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each builder that a saved config names: its key, its import path and its arguments."""
    first = saved.get("evaluators")
    further = first.get("further") if isinstance(first, Mapping) else None
    for number, entry in enumerate([first, *(further if isinstance(further, list) else [])]):
        if isinstance(entry, Mapping) and entry.get("builder"):
            args = entry.get("args")
            yield _key(number), str(entry["builder"]), args if isinstance(args, Mapping) else {}


def _key(number: int) -> str:
    return f"evaluators.further[{number - 1}]" if number else "evaluators"


def named_builders(saved: Mapping[str, Any]) -> list[str]:
    """The import paths of evaluators that a saved config names."""
    return [path for _, path, _ in named(saved)]
