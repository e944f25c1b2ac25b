"""One run from checked settings, as a command starts it: its hooks, its end, its exit code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sft import train as loop
from sft.command import lost_terminal
from sft.command.hooks import SdkLog, Stopper
from sft.command.naming import default_name, new_directory
from sft.command.service import service_of
from sft.command.signals import Signals
from sft.config.saved import to_saved, to_train
from sft.config.schema import Settings
from sft.display.terminal import Terminal
from sft.files import read_yaml
from sft.hooks import Hook, RunResult, of_ones_own
from sft.past.choosing import weights
from sft.past.registry import is_registered
from sft.tracking import trackers

EXIT_CODES = {"FINISHED": 0, "PRUNED": 0, "FAILED": 1}
"""Of a run that no signal ended."""


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
    with lost_terminal.survived(), signals.heeded():
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
        settings = replace(settings, run_name=default_name(settings))
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
    return EXIT_CODES.get(result.status, signals.exit_code) if result else signals.exit_code


async def _run(
    settings: Settings,
    directory: Path,
    hooks: list[Hook],
    overrides: Sequence[str],
    signals: Signals,
) -> RunResult:
    stopper = Stopper()
    with signals.told(stopper.stop, stopper.end):
        return await train(settings, directory, [*hooks, stopper], overrides=overrides)


async def train(
    settings: Settings,
    directory: Path,
    hooks: Sequence[Hook],
    *,
    base_url: str | None = None,
    overrides: Sequence[str] = (),
) -> RunResult:
    """The run that `settings` describe, in `directory`; raises `BadInput`.

    `base_url` is a service that runs already (a sweep's); without it the one that the settings
    name is used, and started if it is the local one. `overrides` are what a command set.
    """
    settings = await asyncio.to_thread(_with_weights, settings, directory)
    hooks = [*hooks, *of_ones_own(settings.hooks)]
    config = to_train(settings, str(directory), base_url)
    service = None if base_url is not None else service_of(settings)
    return await loop.main(
        config, hooks=hooks, service=service, settings=to_saved(settings), overrides=overrides
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
