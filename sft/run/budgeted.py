"""What a run will cost, and whether its budget can tell and hold it: known before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft.cost import prices
from sft.cost.budget import Budget
from sft.cost.estimate import NO_PRICE, Estimate
from sft.cost.prices import dollars
from sft.cost.usage import Usage
from sft.errors import BadInput
from sft.evaluation.interface import usage_of

if TYPE_CHECKING:
    from sft.config.training import Config
    from sft.run.plan import Plan


def is_hosted(base_url: str | None) -> bool:
    """Whether that is hosted Tinker, whose prices are published."""
    from tinker.lib.base_url import DEFAULT_BASE_URL, resolve_base_url

    return resolve_base_url(base_url) == DEFAULT_BASE_URL


def check(config: Config, plan: Plan, budget: Budget) -> Estimate:
    """What the run will cost. Raises `BadInput` if it has a `budget` that cannot tell what is spent
    of it, or that holds not even the first step."""
    hosted = is_hosted(config.base_url)
    estimate = plan.estimate(config, prices.in_use(config.prices, config.model_name, hosted=hosted))
    if budget.limit is None:
        return estimate
    check_known(estimate, budget.key, config.model_name)
    start = [usage_of(evaluator) for evaluator in plan.due(config, 0)]
    first = estimate.prices.usd(sum(filter(None, start), Usage()))
    first += estimate.prices.usd(estimate.parts["training"]) / plan.total_steps
    if not budget.spent and first > budget.limit:
        raise BadInput(
            f"{budget.key}: {budget.limit:g} USD do not hold the first evaluation and a step, "
            f"which cost about {dollars(first)}; the whole run costs {estimate.sentence()}"
        )
    return estimate


def check_known(estimate: Estimate, key: str, model: str) -> None:
    """Refuse a budget in money, the config's `key`, where a price is missing. Raises `BadInput`."""
    needed = {"train", *estimate.missing} | ({"prefill", "sample"} if estimate.unknown else set())
    missing = [kind for kind in estimate.prices.values() if kind in needed]
    missing = [kind for kind in missing if estimate.prices.rate(kind) is None]
    if missing:
        raise BadInput(
            f"{key}: of {model} there is {NO_PRICE} for {' and '.join(missing)} tokens, so that "
            f"what is spent cannot be told; give {' '.join(f'prices.{kind}=…' for kind in missing)}"
            " (USD per million tokens)"
        )
