"""One run from checked settings, as a command starts it: its hooks, its end, its exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sft.command import lost_terminal
from sft.command.confirming import confirmed
from sft.command.hooks import SdkLog, Stopper
from sft.command.naming import default_name, new_directory
from sft.command.service import service_of
from sft.command.signals import Signals
from sft.config.saved import dataset_builder, to_saved, to_train
from sft.config.schema import PriceSettings, Settings
from sft.config.training import Config
from sft.cost.budget import Budget
from sft.cost.estimate import Estimate
from sft.cost.meter import last
from sft.cost.prices import OWN, of_today
from sft.data.mixing.looking import look
from sft.display.stages import shown
from sft.display.terminal import Terminal
from sft.files import read_yaml
from sft.hooks import Hook, RunResult, of_ones_own
from sft.past.choosing import weights
from sft.past.registry import is_registered
from sft.run import training
from sft.stages.stages import hidden
from sft.stages.threads import entered, in_thread
from sft.tracking import trackers

EXIT_CODES = {"FINISHED": 0, "PRUNED": 0, "FAILED": 1}
"""Of a run that no signal ended."""
BUDGET_SPENT = 3
"""The exit code of a run that its budget ended."""


def run(
    settings: Settings,
    *,
    overrides: Sequence[str] = (),
    resumed: Path | None = None,
    tags: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Train as a command does: shows progress, tells trackers, heeds signals; the exit code.

    `resumed` is the directory of an earlier run to continue; `tags` are for the trackers;
    `variables` are those of the environment that gave a setting, by its key. Raises `BadInput`.
    """
    signals = Signals()
    with lost_terminal.survived(), signals.heeded(), shown("checking the data", lines=True):
        try:
            return _train_and_tell(settings, overrides, resumed, tags, variables or {}, signals)
        except (KeyboardInterrupt, asyncio.CancelledError):
            return signals.exit_code


def _train_and_tell(
    settings: Settings,
    overrides: Sequence[str],
    resumed: Path | None,
    tags: Mapping[str, str] | None,
    variables: Mapping[str, str],
    signals: Signals,
) -> int:
    if settings.run_name is None:
        of_folder = Path(settings.run_dir).name if settings.run_dir else ""
        settings = replace(settings, run_name=of_folder or default_name(settings))
    directory = resumed or new_directory(settings)
    terminal = Terminal(settings, directory, list(overrides), variables)
    hooks: list[Hook] = [terminal, SdkLog()]
    hooks += trackers.hooks(settings, tags or {})
    try:
        result = asyncio.run(_run(settings, directory, hooks, overrides, signals))
    except asyncio.CancelledError:
        result = None
    signals.over()
    for sentence in trackers.flush(timeout=30.0):
        print(f"sft: {sentence}", file=sys.stderr)
    if result is None or signals.first is not None:
        return signals.exit_code
    return EXIT_CODES.get(result.status, BUDGET_SPENT)


async def _run(
    settings: Settings,
    directory: Path,
    hooks: list[Hook],
    overrides: Sequence[str],
    signals: Signals,
) -> RunResult:
    stopper = Stopper()

    async def confirm(estimate: Estimate) -> None:
        spent = float(last(directory).get("usd") or 0.0)
        usd = None if estimate.usd is None else max(0.0, estimate.usd - spent)
        unpriced = estimate.unpriced(billed=settings.service.kind == "tinker")
        limit = settings.cost.confirm_above_usd
        with hidden():
            await confirmed(usd, limit, estimate.sentence(), unpriced)

    with signals.told(stopper.stop, stopper.end):
        hooks = [*hooks, stopper]
        return await train(settings, directory, hooks, overrides=overrides, confirm=confirm)


async def train(
    settings: Settings,
    directory: Path,
    hooks: Sequence[Hook],
    *,
    base_url: str | None = None,
    overrides: Sequence[str] = (),
    confirm: Callable[[Estimate], Awaitable[None]] | None = None,
    budgets: Sequence[Budget] = (),
) -> RunResult:
    """The run that `settings` describe, in `directory`; raises `BadInput`.

    `base_url` is a service that runs already (a sweep's); without it the one that the settings
    name is used, and started if it is the local one. `overrides` are what a command set; `confirm`
    and `budgets` as in `sft.run.training`.
    """
    if base_url is None:  # else the sweep has looked
        await in_thread(look, dataset_builder(settings))
    settings = await asyncio.to_thread(refreshed, settings)
    settings = await asyncio.to_thread(_with_weights, settings, directory)
    hooks = [*hooks, *of_ones_own(settings.hooks)]
    config = to_train(settings, str(directory), base_url)
    return await trained(
        settings, config, hooks, base_url is None, overrides=overrides, confirm=confirm,
        budgets=budgets,
    )  # fmt: skip


async def trained(
    settings: Settings,
    config: Config,
    hooks: Sequence[Hook],
    with_service: bool = True,
    **options: Any,
) -> RunResult:
    """The run of `config`, whose saved config `settings` are, `with_service` on the service that
    they name, which is started or set before another server. `options` as in
    `sft.run.training.train`. Raises `BadInput`."""
    service = service_of(settings) if with_service else None
    async with AsyncExitStack() as stack:
        if service is not None and settings.service.kind != "local":
            # Another server is asked before the data is read, which may take minutes.
            config = replace(config, base_url=await entered(service(), stack))
            service = None
        saved = to_saved(settings)
        return await training.train(config, hooks=hooks, service=service, settings=saved, **options)


def refreshed(settings: Settings) -> Settings:
    """`settings` with today's prices, if they ask for them, beside those that the user gave. Raises
    `BadInput`."""
    if not settings.cost.refresh_prices or settings.service.kind != "tinker":
        return settings
    if not (today := of_today(settings.model.name)):
        return settings
    given = {name: value for name, value in asdict(settings.prices).items() if value is not None}
    source = f"{OWN}, else {today.source}" if given else today.source
    return replace(
        settings, prices=PriceSettings(**({"source": source or None} | today.values() | given))
    )


def _with_weights(settings: Settings, directory: Path) -> Settings:
    """`settings` with a path in place of a registered model in `checkpoint.load`: an alias moves,
    and a run that is taken up again in `directory` keeps what it began from. Raises `BadInput`."""
    word, file = settings.checkpoint.load, directory / "config.yaml"
    if word is None or not is_registered(word):
        return settings
    load = read_yaml(file)["checkpoint"]["load"] if file.exists() else None
    load = load or weights(word, settings.tracking.uri)
    return replace(settings, checkpoint=replace(settings.checkpoint, load=load))
