"""What is checked, and what is started, before the first trial."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from sft.config.saved import to_train
from sft.config.schema import Settings
from sft.errors import BadInput
from sft.hooks import of_ones_own
from sft.models.names import model_folder
from sft.run import effects
from sft.run.batches import first_batches
from sft.run.client import Service
from sft.run.plan import Plan
from sft.service import child
from sft.tracking import trackers
from sweeps.composing import Composer
from sweeps.effects import check_metrics, check_pruner, judged_at, without_effect
from sweeps.options import Settled
from sweeps.parameters import ends
from sweeps.study import storage

MOST_CHOICES = 20
"""Of a parameter that are tried before the sweep begins."""

EVALUATIONS = 9
"""Of a trial that pauses, if the user does not say."""
NOT_OF_THE_DATA = ("lr", "lora.", "optimizer.", "seed", "guard.", "checkpoint.", "submit_ahead")
"""Parameters that change neither the data nor the number of steps: no need to read it again."""


def check_space(composer: Composer) -> list[Settings]:
    """Compose the ends of every parameter, or up to twenty choices of it. Raises `BadInput`.

    A bad value is found here, before anything is trained. Returns the settings at the first point,
    and those with each end that has data or a length of its own.
    """
    base = composer.settings(composer.first)
    trackers.hooks(base, {})
    of_ones_own(base.hooks)
    settings = [base]
    for name, distribution in composer.searched.distributions.items():
        tried = ends(distribution)[:MOST_CHOICES]
        composed = [composer.settings(composer.first | {name: value}) for value in tried]
        for one in composed:
            effects.check_adapter(one.lora.train_attn, one.lora.train_mlp, one.lora.train_unembed)
        if not name.startswith(NOT_OF_THE_DATA):
            settings += [one for one in composed if one != base]
    return settings


async def service_url(stack: AsyncExitStack, composer: Composer, base: Settings) -> str | None:
    """Start the local service for every model of the sweep; returns its URL.

    None if no model needs it. Raises `BadInput` if it does not start.
    """
    every = [base]
    for name, distribution in composer.searched.distributions.items():
        of_service = name.partition(".")[0] in ("model", "service")
        if of_service and isinstance(distribution, CategoricalDistribution):
            every += [
                composer.settings(composer.first | {name: value}) for value in distribution.choices
            ]
    local = [settings for settings in every if settings.service.kind == "local"]
    if not local:
        return None
    models = {s.model.name: model_folder(s.model.name) for s in local}
    manager = child.local(Path(local[0].service.root), models, dtype=local[0].service.dtype)
    try:
        url = await asyncio.to_thread(manager.__enter__)
    except child.ServiceUnavailable as error:
        raise BadInput(f"service.root: {error}") from error
    stack.push_async_exit(lambda *exc: asyncio.to_thread(manager.__exit__, *exc))
    return url


@dataclass
class Preflight:
    """What is known of a sweep before its first trial."""

    base_url: str | None
    """Of the local service; None if no model needs it."""
    facts: dict[str, Any]
    """What the study is about: it is not continued with others."""
    tokens: int | None
    """Of one trial, all repeats."""
    without_effect: list[str]
    """Sentences on settings that can have none."""
    eval_every: int
    """Steps between evaluations of trials that pause, if their settings have none; else 0."""


async def preflight(
    stack: AsyncExitStack, options: Settled, composer: Composer, settings: list[Settings], day: str
) -> Preflight:
    """Read the data of all `settings` and ask the services once for each. Raises `BadInput`.

    `day` is the study's: its trials read the data as of it.

    In the order of a single run: a missing key is said before minutes of reading, and the local
    service, which `stack` ends, starts after them.
    """
    base, searched = settings[0], composer.searched
    urls = dict.fromkeys(s.service.base_url for s in settings if s.service.kind != "local")
    elsewhere = {url: await Service.reach(url) for url in urls}
    said = [*without_effect(options, searched), *effects.of_settings(base)]
    judged = False
    questions: list[tuple[Settings, int | None]] = []
    for other in reversed(settings):  # the base comes last, and is what is meant below
        config = to_train(replace(other, date=other.date or day), str(storage.ROOT))
        plan = await Plan.make(config)
        said += effects.check(config, plan)
        check_metrics(options, other, plan)
        judged = judged or bool(judged_at(options, other, plan))
        questions.append((other, plan.max_length))
    check_pruner(options, judged)
    base_url = await service_url(stack, composer, base)
    local = None if base_url is None else await Service.reach(base_url)
    asked = set()
    for other, max_length in questions:
        api = local if other.service.kind == "local" else elsewhere[other.service.base_url]
        assert api is not None  # a model needs the local service, which has started
        question = (api.base_url, other.model.name, max_length)
        if question not in asked:
            asked.add(question)
            await api.check(other.model.name, max_length)
    facts = {
        "model": base.model.name,
        "metric": options.metrics,
        "steps": plan.total_steps,
        # Data that says nothing of itself is known by its first batches: this plan is for that.
        "digest": getattr(plan.data, "digest", None)
        or "-".join(first_batches(plan.data, config.seed, plan.total_steps)),
        "space": searched.describe(),
        "repeats": options.repeats,
    }
    per_epoch = getattr(getattr(plan.data, "statistics", None), "tokens", None)
    tokens = None
    if per_epoch is not None:
        tokens = round(per_epoch * plan.total_steps / len(plan.data)) * options.repeats
    eval_every = 0
    if options.scheduler != "none" and not base.eval_every:
        eval_every = max(1, plan.total_steps // EVALUATIONS)
        said.append(
            f"eval_every=0: trials that pause are evaluated on the way, here every {eval_every} "
            "steps"
        )
    return Preflight(base_url, facts, tokens, list(dict.fromkeys(said)), eval_every)
