"""What is checked, and what is started, before the first trial."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.distributions import CategoricalDistribution

from sft.command import launch
from sft.command.service import local_service, service_of
from sft.config.saved import to_train
from sft.config.schema import Settings
from sft.cost.estimate import NO_PRICE, Estimate
from sft.cost.prices import dollars, in_use
from sft.errors import BadInput
from sft.hooks import of_ones_own
from sft.run import budgeted, effects
from sft.run.batches import first_batches
from sft.run.client import Service
from sft.run.plan import Plan
from sft.secrets import mask_urls
from sft.service.habits.server import behind
from sft.stages.threads import entered
from sft.sweeps.composing import Composer
from sft.sweeps.effects import (
    check_metrics,
    check_pruner,
    check_scheduler,
    is_seldom,
    judged_at,
    without_effect,
)
from sft.sweeps.options import Settled
from sft.sweeps.parameters import ends
from sft.sweeps.scheduling.curves import Curve, State
from sft.sweeps.scheduling.expected import share
from sft.sweeps.study import storage
from sft.tracking import trackers

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


def service_url(
    stack: AsyncExitStack, composer: Composer, base: Settings
) -> asyncio.Future[str] | None:
    """Start the local service for every model of the sweep; its URL, once it is ready.

    None if no model needs it. Raises `BadInput`, as the future does if it does not start.
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
    return entered(local_service(*local), stack)


async def reach_others(
    stack: AsyncExitStack, composer: Composer, settings: list[Settings]
) -> dict[str | None, Service]:
    """The services that are not the local one, by their URLs, each as its trials reach it.

    Raises `BadInput` if one cannot be reached, cannot train the ranks at both ends of the space, or
    ignores a setting that the sweep searches.
    """
    searched = composer.searched.distributions
    ranks = ends(searched["lora.rank"]) if "lora.rank" in searched else []
    found = {}
    for one in settings:
        url = one.service.base_url
        if one.service.kind == "local" or url in found:
            continue
        start = service_of(one, ranks=[int(rank) for rank in ranks], searched=searched)
        if start is None:
            found[url] = await Service.reach(url)
            continue
        address = await entered(start(), stack)
        found[url] = await Service.reach(address)
        if (habits := behind(address)) is not None:
            for key in searched:
                if key in habits.ignored:
                    raise BadInput(
                        f"{key}: the service at {mask_urls(habits.url)} ignores it "
                        f"({habits.ignored[key]}), so that a sweep over it compares nothing"
                    )
    return found


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
    estimate: Estimate
    """Of one trial, all repeats."""

    def expected_usd(self, options: Settled, there: int) -> float | None:
        """What the trials that are left are expected to cost; None if no price is known."""
        whole = self.estimate.times(max(0, options.n_trials - there)).usd
        if whole is None:
            return None
        first = options.pruner_min_steps
        first_rung = None if first is None else first / self.facts["steps"]
        part = share(
            options.scheduler, options.pruner, options.pruner_reduction, first_rung,
            options.n_trials,
        )  # fmt: skip
        limits = [1.0] if options.max_tokens is None or not self.tokens else [
            1.0, options.max_tokens / (self.tokens * options.n_trials)
        ]  # fmt: skip
        return whole * min(part, *limits)

    def cost_lines(self, options: Settled, there: int) -> list[str]:
        """What the sweep will cost, in words; nothing where nobody charges."""
        left = self.estimate.times(max(0, options.n_trials - there))
        expected = self.expected_usd(options, there)
        if left.usd is None or expected is None:
            return [NO_PRICE] if self.is_hosted else []
        lines = [f"every trial to its end: {left.sentence()}"] if left.usd else []
        if expected < left.usd:
            how = options.scheduler if options.scheduler != "none" else options.pruner
            lines.append(f"expected, with what {how} spares: about {dollars(expected)}")
        if options.budget_usd is not None:
            lines.append(f"hydra.sweeper.budget_usd: {dollars(options.budget_usd)} at most")
        return [*lines, f"prices: {self.estimate.prices.source}"]

    new: Curve
    """A trial that has not begun, as a scheduler sees it."""
    is_hosted: bool = False
    is_seldom: bool = False
    """Whether what is compared is measured every `evaluators.every` steps, not `eval_every`."""


async def preflight(
    stack: AsyncExitStack, options: Settled, composer: Composer, settings: list[Settings], day: str
) -> Preflight:
    """Read the data of all `settings` and ask the services once for each. Raises `BadInput`.

    `day` is the study's: its trials read the data as of it.

    In the order of a single run: a missing key is said before minutes of reading, and the local
    service, which `stack` ends, starts meanwhile.
    """
    base, searched = settings[0], composer.searched
    elsewhere = await reach_others(stack, composer, settings)
    starting = service_url(stack, composer, base)
    said = [*without_effect(options, searched), *effects.of_settings(base)]
    judged = False
    questions: list[tuple[Settings, int | None]] = []
    for other in reversed(settings):  # the base comes last, and is what is meant below
        config = to_train(replace(other, date=other.date or day), str(storage.ROOT))
        plan = await Plan.make(config)
        said += effects.check(config, plan)
        check_metrics(options, other, plan)
        eval_every = 0
        if options.scheduler != "none" and not other.eval_every:
            eval_every = max(1, plan.total_steps // EVALUATIONS)
        evaluated = replace(other, eval_every=other.eval_every or eval_every)
        judged = judged or bool(judged_at(options, evaluated, plan))
        questions.append((other, plan.max_length))
    check_pruner(options, judged)
    check_scheduler(options, judged)
    base_url = None if starting is None else await starting
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
    if eval_every:
        said.append(
            f"eval_every=0: trials that pause are evaluated on the way, here every {eval_every} "
            "steps"
        )
    config = replace(config, eval_every=config.eval_every or eval_every)
    hosted = base.service.kind == "tinker" and budgeted.is_hosted(None)
    named = base.model.name
    own = asdict((await asyncio.to_thread(launch.refreshed, base)).prices)
    estimate = plan.estimate(config, in_use(own, named, hosted=hosted))
    estimate = estimate.times(options.repeats)
    if options.budget_usd is not None:
        budgeted.check_known(estimate, "hydra.sweeper.budget_usd", named)
    said = list(dict.fromkeys(said))
    seldom, total = is_seldom(options, plan), plan.total_steps
    every = base.evaluators.every if seldom else config.eval_every
    new = Curve(0, {}, (), State.PAUSED, tokens or total, total, every)
    return Preflight(base_url, facts, tokens, said, eval_every, estimate, new, hosted, seldom)
