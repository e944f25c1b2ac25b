"""The hooks of a run that a command started: it heeds signals, and keeps what the SDK says."""

from __future__ import annotations

import asyncio
import logging
import sys

from sft.command.signals import AGAIN
from sft.hooks import BaseHook, Run, RunResult
from sft.record.rundir import LogFormat
from sft.stages.stages import hidden


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
        if self.run is None:
            with hidden():
                print(f"\n{name}: stopping; there is nothing to save yet", file=sys.stderr)
            self.end(name)
            return
        print(f"\n{name}: saving a checkpoint, then stopping; {AGAIN}", file=sys.stderr)
        self.run.stop(f"interrupted by {name}", "KILLED")

    def end(self, name: str) -> None:
        assert self._task is not None
        self._task.cancel(f"interrupted by {name}")
