"""How far a run has come: what its steps, its saves and its evaluations have in common."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sft.errors import Sentence
from sft.run.failures import is_lost, status_of, words_of
from sft.secrets import mask_urls

if TYPE_CHECKING:
    from sft.cost.meter import Meter
    from sft.hooks import Hook, Run
    from sft.record.checkpoints import CheckpointRecord
    from sft.record.rundir import RunDirectory
    from sft.run.plan import Plan


@dataclass
class Progress:
    """A run in this process, through all of its attempts."""

    run: Run
    plan: Plan
    state: RunDirectory
    hooks: tuple[Hook, ...]
    meter: Meter
    applied: int = 0
    """Steps whose results have arrived."""
    diverged: bool = False
    worked: set[str] = field(default_factory=set)
    """Kinds of requests that the service has answered well in this process."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def tell(self, text: str) -> None:
        """Write `text` to the run's log and to every hook."""
        text = mask_urls(text)
        self.state.log.info(text)
        for hook in self.hooks:
            hook.on_message(text)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add `values` to the row of `step`, on disk and with every hook."""
        timestamp = self.state.metrics.merge(step, values)
        for hook in self.hooks:
            hook.on_metrics(step, values, timestamp)

    def attach(self, record: CheckpointRecord) -> None:
        """Give `record` the evaluation made at its step, if there is one yet, and tell hooks."""
        row = self.state.metrics.rows.get(record.step, {})
        evaluation = {key: value for key, value in row.items() if key.startswith("eval/")}
        record.evaluation = evaluation or None
        for hook in self.hooks:
            hook.on_checkpoint(record)
        self.state.checkpoints.update()

    def diverge(self, what: str) -> None:
        self.diverged = True
        self.run.stop(f"diverged: {what}", "FAILED")

    async def advance(self, applied: int) -> None:
        """Wake who waits in `reached`: `applied` updates are in, or the loss has diverged."""
        async with self._changed:
            self.applied = applied
            self._changed.notify_all()

    async def reached(self, step: int) -> None:
        """Wait until `step` updates are applied, or the loss has diverged on the way there."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.applied >= step or self.diverged)

    def is_over(self, error: BaseException, kind: str) -> bool:
        """Whether an error means that the session is: a 404 may also say that the service has no
        such request, if it has never answered one."""
        return is_lost(error) and (status_of(error) != 404 or kind in self.worked)


def describe(error: BaseException) -> str:
    """An error in one line; those of this project are sentences of their own."""
    text = mask_urls(words_of(error))
    return text if isinstance(error, Sentence) else f"{type(error).__name__}: {text}"
