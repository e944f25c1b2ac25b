"""Checkpoints beside the steps: queued right behind their step, recorded once they are whole."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from sft.errors import Sentence
from sft.record.checkpoints import CheckpointRecord, best
from sft.run.client import Service
from sft.run.evaluations import Evaluations
from sft.run.failures import status_of
from sft.run.progress import Progress, describe
from sft.run.training_queue import Request, TrainingQueue


class NotSaved(Sentence):
    """The service has refused to save a checkpoint that a run cannot do without; the message says
    what to do."""


@dataclass
class Saves:
    """Those of one attempt."""

    progress: Progress
    api: Service
    queue: TrainingQueue
    group: asyncio.TaskGroup
    evaluations: Evaluations
    last: asyncio.Task[None] | None = None

    async def start(self, step: int, kind: str, tokens: int) -> None:
        """Queue a checkpoint of the weights after `step` updates, and see to its confirmation."""
        name = "final" if kind == "final" else f"{step:06d}"
        epoch, next_batch = divmod(step, len(self.progress.plan.data))
        record = CheckpointRecord(name, step, epoch, next_batch, tokens, "", "", kind=kind)
        requests = await self.queue.save(name, self._ttl(kind))
        work = self._confirm(record, requests, self.last)
        self.evaluations.saving.add(step)
        self.last = self.group.create_task(work)
        self.last.add_done_callback(lambda _: self.evaluations.saving.discard(step))

    def _ttl(self, kind: str) -> int | None:
        config = self.progress.run.config
        return {"periodic": config.ttl_seconds, "rolling": config.rolling_ttl_seconds}.get(kind)

    async def _confirm(
        self,
        record: CheckpointRecord,
        requests: tuple[Request, Request],
        save_before: asyncio.Task[None] | None,
    ) -> None:
        """Record a checkpoint once it is saved and everything before it is known and finite.

        An evaluation of an earlier step could not be made again by a run that resumes here, so
        that the record waits for those too; and for the save before it, since the last record is
        the latest weights, and a rolling save replaces those before it.
        """
        if not await self._saved(record, requests):
            return
        await self.progress.reached(record.step)
        earlier = self.evaluations.before(record.step)
        earlier += [save_before] if save_before else []
        if earlier:
            await asyncio.wait(earlier)
        if self.progress.diverged:
            return
        record.timestamp = int(time.time() * 1000)
        await asyncio.to_thread(self.progress.state.metrics.sync)
        self.progress.state.checkpoints.append(record)
        self.progress.attach(record)
        await self._drop_replaced(record)

    async def _saved(self, record: CheckpointRecord, requests: tuple[Request, Request]) -> bool:
        """Whether the service has saved both files of `record`.

        A run's last save is tried twice: the weights are still the same, and a session that has
        ended shows itself so. Raises the error of a lost service, and `NotSaved` for the final
        checkpoint and for a request that was refused before it had its place in the service's
        queue. A periodic one that fails costs a warning; earlier ones stay.
        """
        is_last = record.kind in ("final", "interrupted")
        for attempt in (1, 2):
            record.state_path = ""
            try:
                record.state_path = (await requests[0]).path
                record.sampler_path = (await requests[1]).path
                return True
            except Exception as error:
                if self.progress.is_over(error, requests[bool(record.state_path)].kind):
                    raise
                problem = error
            if status_of(problem) is not None:  # its place in the queue stays open: nothing follows
                raise self._not_saved(record, problem)
            await self.progress.reached(record.step)
            if self.progress.diverged:
                return False
            if record.state_path:
                await self._delete(record.name, record.state_path)
            if not is_last:
                break
            if attempt == 1:
                requests = await self.queue.save(record.name, self._ttl(record.kind))
        self.progress.state.log.error("checkpoint %s", record.name, exc_info=problem)
        if record.kind == "final":
            raise self._not_saved(record, problem)
        onward = "" if is_last else "; training goes on"
        self.progress.tell(f"checkpoint {record.name} was not saved: {describe(problem)}{onward}")
        return False

    def _not_saved(self, record: CheckpointRecord, error: BaseException) -> NotSaved:
        there = self.progress.state.checkpoints.records
        onward = f"goes on from {there[-1].name}" if there else "trains it again"
        return NotSaved(
            f"checkpoint {record.name} was not saved: {describe(error)}; once that is mended, "
            f"python -m sft.resume {self.progress.run.directory} {onward}"
        )

    async def _drop_replaced(self, record: CheckpointRecord) -> None:
        """Delete what `record` replaces: earlier rolling saves, and periodic ones beyond `keep`."""
        records = self.progress.state.checkpoints.records
        config = self.progress.run.config
        kept = best(records, config.metric, config.direction)
        replaced = [
            old for old in records if old.kind in ("rolling", "interrupted") and old is not record
        ]
        periodic = [old for old in records if old.kind == "periodic" and old is not kept]
        replaced += periodic[: -config.keep_checkpoints] if config.keep_checkpoints else []
        for old in replaced:
            self.progress.state.checkpoints.remove(old)
        for old in replaced:
            await self._delete(old.name, old.state_path)
            await self._delete(old.name, old.sampler_path)

    async def _delete(self, name: str, path: str) -> None:
        """Delete a file of a checkpoint; one that stays on the service costs space, not the run."""
        try:
            await self.api.delete(path)
        except Exception as error:
            self.progress.tell(f"checkpoint {name}: {path} stays on the service: {describe(error)}")
