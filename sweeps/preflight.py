"""What is checked, and what is started, before the first trial."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from sft import launch
from sft.compose import check_overrides, settle, translate
from sft.config import to_train
from sft.errors import BadInput
from sft.mlflow_store import check_uri
from sft.schema import Settings
from sft.secrets import fill
from sweeps import storage
from sweeps.options import Options
from sweeps.space import SearchSpace

Compose = Callable[[Mapping[str, Any]], Settings]


def composer(loader: Any, config: Any, searched: SearchSpace) -> Compose:
    """The settings of a trial from its parameters, as Hydra composes them."""
    from omegaconf import open_dict

    # A folder of the user's own (--config-dir) may hold further options of the groups.
    config_dir = next(
        (s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"), None
    )

    def compose(values: Mapping[str, Any]) -> Settings:
        overrides = searched.overrides(values)
        check_overrides(overrides, config_dir)
        try:
            composed = loader.load_sweep_config(config, overrides)
        except Exception as error:
            raise translate(error) from error
        with open_dict(composed):
            del composed["hydra"]
        return settle(composed)

    return compose


def check_space(searched: SearchSpace, compose: Compose) -> Settings:
    """Composes the ends (of choices: each, up to twenty) of every parameter, so that a bad value
    is found before anything is trained; returns the settings without any of them."""
    base = compose({})
    if base.tracking.uri is not None:
        check_uri(fill(base.tracking.uri, "tracking.uri"))
    for name, distribution in searched.distributions.items():
        choices = getattr(distribution, "choices", None)
        ends = choices[:20] if choices else (distribution.low, distribution.high)
        for value in ends:
            compose({name: value})
    return base


async def service_url(
    stack: AsyncExitStack, searched: SearchSpace, compose: Compose, base: Settings
) -> str | None:
    """Starts the local service for every model of the sweep; returns its URL."""
    every = [base]
    for name, distribution in searched.distributions.items():
        if name.partition(".")[0] in ("model", "service"):
            every += [compose({name: value}) for value in getattr(distribution, "choices", ())]
    local = [settings for settings in every if settings.service.kind == "local"]
    if not local:
        return None
    models = {s.model.name: launch.model_folder(s.model.name) for s in local}
    from sft import service

    manager = service.local(Path(local[0].service.root), models, dtype=local[0].service.dtype)
    try:
        url = await asyncio.to_thread(manager.__enter__)
    except service.ServiceUnavailable as error:
        raise BadInput(f"service.root: {error}") from error
    stack.push_async_exit(lambda *exc: asyncio.to_thread(manager.__exit__, *exc))
    return url


async def preflight(
    options: Options, searched: SearchSpace, base: Settings, base_url: str | None
) -> tuple[dict[str, Any], int | None]:
    """Reads the data and asks the service once, before a trial begins: what the study is about,
    and the tokens of one trial. Raises BadInput."""
    from sft.client import Service
    from sft.plan import Plan

    config = to_train(base, str(storage.ROOT), base_url)
    plan = await Plan.make(config)
    for metric in options.metrics:
        if metric in ("eval/nll", "eval/bpb") and plan.held_out is None:
            raise BadInput(
                f"hydra.sweeper.metric={metric}: the data has nothing held out to measure it on; "
                "set dataset.eval_size, or another metric."
            )
    api = await Service.reach(config.base_url)
    await api.check(config.model_name, plan.max_length)
    facts = {
        "model": base.model.name,
        "metric": options.metrics,
        "steps": plan.total_steps,
        "digest": getattr(plan.data, "digest", None),
        "space": searched.describe(),
        "repeats": options.repeats,
    }
    if options.pruner_min_steps is not None and options.pruner_min_steps >= plan.total_steps:
        raise BadInput(
            f"hydra.sweeper.pruner_min_steps={options.pruner_min_steps}: a run has "
            f"{plan.total_steps} steps, so that nothing would ever be pruned."
        )
    per_epoch = getattr(getattr(plan.data, "statistics", None), "tokens", None)
    if per_epoch is None:
        return facts, None
    return facts, round(per_epoch * plan.total_steps / len(plan.data)) * options.repeats
