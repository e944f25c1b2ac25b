"""Training from Python and notebooks: `Config` says what to train, `main` trains it.

config = train.Config(log_path="outputs/first", model_name="Qwen/Qwen3-8B",
                      dataset_builder=builder, learning_rate=1e-4, lora_rank=32)
result = asyncio.run(train.main(config))  # in a notebook: await train.main(config)
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.command.launch import trained
from sft.config.checking import check
from sft.config.saved import from_train
from sft.config.schema import Settings
from sft.config.training import Config
from sft.display.stages import shown
from sft.display.terminal import Terminal
from sft.errors import BadInput
from sft.hooks import BaseHook, Hook, Run, RunResult
from sft.tracking import trackers
from sft.tracking.store import experiment_name, tracking_uri

__all__ = ["Config", "main"]

Track = bool | str | Iterable[str] | Mapping[str, Mapping[str, Any]]
"""Trackers: all or none, their names, or names with options."""

logger = logging.getLogger(__name__)


async def main(
    config: Config,
    *,
    service: str | None = None,
    show: bool = True,
    track: Track = True,
    hooks: Sequence[Hook] = (),
) -> RunResult:
    """Train `config` and return how it ended; a failure of the run itself is in the result.

    `service` is `"local"`, `"tinker"` or the URL of another server; by default `config.base_url`,
    and without one hosted Tinker. `show` prints the run's progress as the command line does; of
    runs side by side in one process at most one can have it at a terminal. `track` logs to MLflow,
    to where `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` say or as the command line does; or
    to the trackers that it names, as `tracking=[mlflow,wandb]` of the command line does:
    `["mlflow", "wandb"]`, or with options `{"mlflow": {"uri": …, "experiment": …}, "wandb": {}}`.
    `hooks` follow the run besides. If `config.log_path` holds an unfinished run, that run is
    continued from its last confirmed checkpoint. `sft.sample`, `sft.resume` and the other commands
    find the run by its directory, as they find those of the command line.

    Ctrl-C, or a cancelled task, saves a checkpoint and then raises `CancelledError`; a second one
    does not wait for it.

    Raises `BadInput` before anything is created if the data, the model, the service or the
    directory cannot be used.
    """
    following = _Following()
    try:
        config = _on(config, service)
        settings = _settings(config, service, _tracking(track))
        told: list[Hook] = [following, *trackers.hooks(settings, {}), *hooks]
        if show:
            told.insert(0, Terminal(settings, Path(config.log_path), []))
        with shown("checking the data", lines=True) if show else nullcontext():
            task = asyncio.ensure_future(trained(settings, config, told))
            result = await _to_its_end(task, following)
    except BadInput as error:
        raise error.with_traceback(None) from None  # its sentence says what is to be done
    if settings.tracking.uri or settings.tracking.also:
        for sentence in await asyncio.to_thread(trackers.flush, 30.0):
            logger.warning(sentence)
    return result


def _on(config: Config, service: str | None) -> Config:
    """`config` with the URL that `service` is, if it is one. Raises `BadInput`."""
    if service in (None, "local", "tinker"):
        if service is not None and config.base_url is not None:
            raise BadInput(f"service={service!r}: the config has a base_url; give one of them")
        return config
    if not str(service).startswith(("http://", "https://")):
        raise BadInput(f"service={service!r}: expected 'local', 'tinker' or the URL of a server")
    return replace(config, base_url=service)


def _tracking(track: Track) -> dict[str, Any]:
    """`track` as the keys of `tracking`."""
    if isinstance(track, bool):
        track = [trackers.MLFLOW] if track else []
    elif isinstance(track, str):
        track = [track]
    options = track if isinstance(track, Mapping) else {name: {} for name in track}
    also = {name: dict(of) for name, of in options.items() if name != trackers.MLFLOW}
    uri = tracking_uri() if trackers.MLFLOW in options else None
    of_mlflow = options.get(trackers.MLFLOW, {})
    return {"uri": uri, "experiment": experiment_name(), **of_mlflow, "also": also}


def _settings(config: Config, service: str | None, tracking: Mapping[str, Any]) -> Settings:
    """What the saved config of the run says. Raises `BadInput`."""
    saved = from_train(config)
    saved.pop("version")
    saved["run_name"] = Path(config.log_path).name
    saved["run_dir"] = config.log_path
    if service == "local":
        saved["service"]["kind"] = "local"
    saved["tracking"] |= tracking
    return check(saved)


class _Following(BaseHook):
    """Knows the run once it has begun."""

    def __init__(self) -> None:
        self.run: Run | None = None

    def on_start(self, run: Run) -> None:
        self.run = run


async def _to_its_end(task: asyncio.Task[RunResult], following: _Following) -> RunResult:
    """The result of `task`. Who is cancelled meanwhile lets it save a checkpoint first, and who is
    cancelled again does not wait for that."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if following.run is not None and not task.done():
            following.run.stop("interrupted", "KILLED")
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                pass
        task.cancel("interrupted")
        await asyncio.gather(task, return_exceptions=True)
        raise


if __name__ == "__main__":
    print("sft.train: is for Python; to train from a terminal: python -m sft", file=sys.stderr)
    sys.exit(2)
