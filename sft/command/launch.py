"""One run from checked settings: its directory, its service, its hooks, its exit code."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft import train as loop
from sft.command import lost_terminal
from sft.command.signals import AGAIN, Signals
from sft.config.checking import keys
from sft.config.data_name import data_name
from sft.config.saved import to_saved, to_train
from sft.config.schema import Settings
from sft.display.terminal import Terminal
from sft.errors import BadInput
from sft.hooks import BaseHook, Hook, Run, RunResult
from sft.models import demo
from sft.record.rundir import LogFormat
from sft.service import child
from sft.tracking.hook import MlflowHook

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
    """Train as a command does: shows progress, logs to MLflow, heeds signals; the exit code.

    `resumed` is the directory of an earlier run to continue; `tags` are for the MLflow run;
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
    directory = resumed or run_directory(settings)
    terminal = Terminal(settings, directory, list(overrides), variables)
    hooks: list[Hook] = [terminal, SdkLog()]
    if tracker := tracking_hook(settings, directory, tags=tags):
        hooks.append(tracker)
    try:
        result = asyncio.run(_run(settings, directory, hooks, overrides, signals))
    except asyncio.CancelledError:
        result = None
    signals.over()
    for sentence in tracker.flush(timeout=30.0) if tracker else []:
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
    config = to_train(settings, str(directory), base_url)
    child = None if base_url is not None else service_of(settings)
    return await loop.main(
        config, hooks=hooks, service=child, settings=to_saved(settings), overrides=overrides
    )


def service_of(settings: Settings) -> Callable[[], AbstractContextManager[str]] | None:
    """What starts the local service that `settings` need; None when they name another one."""
    if settings.service.kind != "local":
        return None

    @contextmanager
    def start() -> Iterator[str]:
        root = Path(settings.service.root)
        made = _first_missing(root)
        models = {settings.model.name: model_folder(settings.model.name)}
        try:
            with child.local(root, models, dtype=settings.service.dtype) as url:
                yield url
        except child.ServiceUnavailable as error:
            raise BadInput(f"service: {error}") from error
        except BadInput:
            if made is not None:  # nothing was trained: leave nothing behind
                shutil.rmtree(made, ignore_errors=True)
            raise

    return start


def _first_missing(path: Path) -> Path | None:
    """The topmost folder that making `path` would make; None if it is there already."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    return missing[-1] if missing else None


def model_folder(name: str) -> str | None:
    """The folder that holds the model `name` on this machine; None: the service knows the name."""
    if name == demo.NAME:
        return str(demo.folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if name.startswith((".", "/", "~")):
        raise BadInput(f"model.name: there is no folder {name}")
    return None


def tracking_hook(settings: Settings, directory: Path, **options: Any) -> Any | None:
    """The hook that logs to MLflow; None without tracking. Raises `BadInput` on a bad URI."""

    if settings.tracking.uri is None:
        return None

    return MlflowHook(
        settings.tracking.uri,
        settings.tracking.experiment,
        settings.run_name,
        **options,
    )


def run_directory(settings: Settings) -> Path:
    """`run_dir`, or outputs/DATE/TIME-NAME; never one that another run started in this second."""
    if settings.run_dir:
        return Path(settings.run_dir)
    stem = Path(
        "outputs", time.strftime("%Y-%m-%d"), f"{time.strftime('%H-%M-%S')}-{settings.run_name}"
    )
    directory, number = stem, 2
    while directory.exists():
        directory, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return directory


NOT_IN_A_NAME = (
    *("model.", "dataset.", "service.", "tracking.", "evaluators.", "run_", "optimizer"),
    *("date", "checkpoint.", "guard.", "eval_every", "save_every", "max_length", "submit_ahead"),
)


def default_name(settings: Settings) -> str:
    """A name that says what is different: first what was set on the way, then model and data.

    In this order since lists of runs cut long names at the end.
    """
    parts = []
    defaults = dict(keys())
    for name, value in keys(settings):
        if not name.startswith(NOT_IN_A_NAME) and value != defaults.get(name, value):
            parts.append(in_short(name, value))
    return joined([*parts, Path(settings.model.name).name, data_name(settings.dataset)])


def in_short(key: str, value: Any) -> str:
    """One setting as a part of a run's name: lr0.0003, rank8, cosine."""
    short = {"lora.rank": "rank", "max_steps": "steps", "batch_size": "batch"}
    short |= {"schedule.kind": "", "optimizer.kind": ""}
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    group, _, name = key.rpartition(".")
    if group.startswith("dataset.parts."):  # a weight of a mixture
        name = group.rpartition(".")[2] + name.replace("weight", "")
    return short.get(key, name) + text


def joined(parts: Sequence[str]) -> str:
    """A run's name from its parts, such as a folder can have."""
    return "-".join(part.replace("/", "_").replace(" ", "_") for part in parts)[:120]


class SdkLog(BaseHook):
    """What the SDK says goes into the run's log: one process, one run."""

    def on_start(self, run: Run) -> None:
        self.handler = logging.FileHandler(run.directory / "run.log", encoding="utf-8")
        self.handler.setFormatter(LogFormat())
        logging.getLogger("tinker").addHandler(self.handler)

    def on_end(self, result: RunResult) -> None:
        logging.getLogger("tinker").removeHandler(self.handler)
        self.handler.close()


class Stopper(BaseHook):
    """Ends a run as signals ask for it: with a checkpoint, or at once. Made in the run's task."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._task = asyncio.current_task()

    def on_start(self, run: Run) -> None:
        self.run = run

    def stop(self, name: str) -> None:
        if self.run is None:  # there is nothing to save yet
            self.end(name)
            return
        print(f"\n{name}: saving a checkpoint, then stopping; {AGAIN}", file=sys.stderr)
        self.run.stop(f"interrupted by {name}", "KILLED")

    def end(self, name: str) -> None:
        assert self._task is not None
        self._task.cancel(f"interrupted by {name}")
