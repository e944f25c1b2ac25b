"""`python -m sft.models`: the models that a service offers, and the config that each is trained by.

    python -m sft.models                  # the local service, started for it
    python -m sft.models service=tinker   # hosted, with prices
    python -m sft.models service=custom service.base_url=http://HOST:PORT --json

Prices are USD per million tokens. A model without a config of its own is trained by model=auto.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sft.command.main import add_config_dir, add_json, command, new_parser, print_json
from sft.command.service import service_of
from sft.config.compose import CONF, compose
from sft.config.schema import Settings
from sft.cost.prices import published
from sft.display.tables import aligned
from sft.files import read_yaml
from sft.run.budgeted import is_hosted
from sft.run.client import Service

TEMPLATE = "its chat template"


@dataclass(frozen=True)
class Offered:
    """A model that a service offers."""

    name: str
    context: int | None
    """Tokens of the longest sequence; None if the service does not say."""
    trainable: bool
    config: str
    """The words that choose it."""
    renderer: str
    train: float | None = None
    prefill: float | None = None
    sample: float | None = None
    """USD per million tokens; None: no published price known."""


@command("sft.models")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.models", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="service=…", help="whose models")
    add_config_dir(parser)
    add_json(parser, "the models")
    options = parser.parse_intermixed_args(argv)
    found = offered(compose(options.overrides, options.config_dir))
    if options.json:
        print_json([asdict(one) for one in found])
    else:
        print("\n".join(_table(found)))
    return 0


def offered(settings: Settings) -> list[Offered]:
    """What the service that `settings` name offers, by name. Raises `BadInput`."""
    start = service_of(settings)
    with start() if start else nullcontext(settings.service.base_url) as url:
        models = asyncio.run(_models(url))
        hosted = is_hosted(url)
    configs = shipped()
    made = [_offered(model, configs, hosted) for model in models if model.model_name]
    return sorted(made, key=lambda one: one.name.lower())


async def _models(url: str | None) -> list[Any]:
    service = await Service.reach(url)
    return await service.models()


def shipped() -> dict[str, tuple[str, str | None]]:
    """The configs of conf/model: by the service's name of their model, theirs and its renderer."""
    found = {}
    for file in sorted((CONF / "model").glob("*.yaml")):
        values = read_yaml(file)
        found[values["name"]] = (file.stem, values.get("renderer"))
    return found


def _offered(model: Any, configs: dict[str, tuple[str, str | None]], hosted: bool) -> Offered:
    name = model.model_name
    config, renderer = configs.get(name, (None, None))
    is_base = name.partition(":")[0].endswith("-Base")
    words = f"model={config}" if config else f"model=auto model.name={name}"
    if is_base and not config:
        words, renderer = f"{words} model.renderer=role_colon", "role_colon"
    prices = published(name) if hosted else None
    return Offered(
        name,
        model.max_context_length,
        model.trainable is not False,
        words,
        renderer or TEMPLATE,
        *((prices.train, prices.prefill, prices.sample) if prices else ()),
    )


def _table(models: Sequence[Offered]) -> list[str]:
    if not models:
        return ["the service offers no model"]
    header = ["model", "context", "trainable", "train", "prefill", "sample", "renderer", "config"]
    rows = [
        [
            one.name,
            f"{one.context:,}" if one.context else "?",
            "yes" if one.trainable else "no",
            *("-" if usd is None else f"{usd:g}" for usd in (one.train, one.prefill, one.sample)),
            one.renderer,
            one.config,
        ]
        for one in models
    ]
    return aligned([header, *rows])


if __name__ == "__main__":
    sys.exit(main())
