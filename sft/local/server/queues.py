"""A model's requests in the order of their seq_ids, and what of them one clock cycle takes.

Requests arrive in any order (the SDK sends the first chunk of a batch last: then the whole batch is
taken together) and some arrive twice. A cycle takes the head of the queue up to and including the
first optim_step, and the saves right behind it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeGuard, TypeVar

from sft.local.engine_api import AdamStep, AdapterState, EngineError, LoraSpec, TrainingSequence
from sft.local.losses import Loss
from sft.local.server.store import CheckpointPath, StoreError


@dataclass
class Sampler:
    """A sampling session: the base model, a checkpoint, or a snapshot to sample from."""

    sampler_id: str
    session_id: str
    base_model: str
    path: str | None = None  # of the checkpoint
    is_snapshot: bool = False
    is_resident: bool = False  # in the engine
    is_closed: bool = False  # its session has ended
    waiting: int = 0  # requests queued
    last_used: float = 0.0  # monotonic seconds
    clones: int = 0  # copies of the client in other processes
    seen: set[int] = field(default_factory=set)  # seq_ids


@dataclass
class Create:
    """A fresh adapter."""

    lora: LoraSpec


@dataclass
class Load:
    """A saved state into the adapter, which is made first if `creates` is set."""

    path: CheckpointPath
    optimizer: bool
    creates: bool = False
    base_model: str | None = None  # if it is not the checkpoint's; only with `creates`
    is_reading: bool = False
    found: AdapterState | StoreError | None = None  # None until the disk has answered


@dataclass
class Save:
    """A named checkpoint on disk."""

    path: CheckpointPath
    ttl_seconds: int | None = None
    user_metadata: dict[str, str] | None = None
    overwrite: bool = False


@dataclass
class Snapshot:
    """An unnamed copy to sample from, in memory."""

    sampler: Sampler


@dataclass
class Compute:
    loss: Loss
    sequences: list[TrainingSequence]
    backward: bool


@dataclass
class Step:
    params: AdamStep


@dataclass
class Refused:
    """A request that was found wrong when it came; it fails in its turn."""

    message: str
    breaks: bool  # whether the requests behind it depend on it


Operation = Create | Load | Save | Snapshot | Compute | Step | Refused
Some = TypeVar("Some", bound=Operation, covariant=True)


@dataclass(frozen=True)
class Request(Generic[Some]):
    request_id: str
    seq_id: int
    kind: str  # for people: forward_backward, save_weights, ...
    operation: Some


@dataclass
class Slice:
    """What one cycle does for one model, in this order."""

    model: Model
    before: list[Request[Operation]] = field(default_factory=list)
    work: list[Request[Compute]] = field(default_factory=list)
    step: Request[Step] | None = None
    after: list[Request[Save | Snapshot]] = field(default_factory=list)

    def requests(self) -> list[Request[Operation]]:
        step = [] if self.step is None else [self.step]
        return [*self.before, *self.work, *step, *self.after]

    def saves(self) -> int:
        return sum(isinstance(request.operation, Save) for request in self.requests())


@dataclass
class Model:
    """A training run that is alive: its queue, and why it is broken if it is."""

    model_id: str
    session_id: str
    base_model: str
    lora: LoraSpec | None  # None until a checkpoint that is loaded says it
    user_metadata: dict[str, str] | None = None
    is_created: bool = False
    broken: EngineError | None = None  # why all further requests fail
    next_seq: int = 0
    ready: deque[Request[Operation]] = field(default_factory=deque)
    early: dict[int, Request[Operation]] = field(default_factory=dict)  # behind a gap
    gap_since: float = 0.0  # monotonic seconds; meaningful while `early` holds something
    last_request: float = field(default_factory=time.time)

    def has_seen(self, seq_id: int) -> bool:
        return seq_id < self.next_seq or seq_id in self.early

    def add(self, request: Request[Operation]) -> None:
        """Puts it in its place by seq_id; one that was seen before must not come here."""
        self.last_request = time.time()
        if not self.early:
            self.gap_since = time.monotonic()
        self.early[request.seq_id] = request
        while self.next_seq in self.early:
            self.ready.append(self.early.pop(self.next_seq))
            self.next_seq += 1
            self.gap_since = time.monotonic()

    def close_gap(self) -> None:
        """Stops waiting for what never came; the model is broken from there."""
        first = self.next_seq
        message = (
            f"request {first} of this model never arrived, and those behind it were not computed"
        )
        self.early[first] = Request(
            f"{self.model_id}:{first}", first, "lost request", Refused(message, breaks=True)
        )
        for seq_id in sorted(self.early):
            self.ready.append(self.early.pop(seq_id))
            self.next_seq = seq_id + 1

    def take(self, most_saves: int) -> Slice:
        """Removes and returns the head of the queue, as much as one cycle may do.

        Saves beyond `most_saves` stay in the queue, and with them all that is behind.
        """
        part = Slice(self)
        part.before = self._take_while(_is_control, most_saves)
        part.work = self._take_while(_is_compute, 0)
        if self.ready and _is_step(head := self.ready[0]):
            part.step = head
            self.ready.popleft()
        if part.work or part.step:
            part.after = self._take_while(_is_save, most_saves - part.saves())
        return part

    def unread_load(self) -> Load | None:
        """The load at the head of the queue, if its checkpoint has not been read yet."""
        head = self.ready[0].operation if self.ready else None
        return head if isinstance(head, Load) and head.found is None else None

    def _take_while(
        self, belongs: Callable[[Request[Operation]], TypeGuard[Request[Some]]], most_saves: int
    ) -> list[Request[Some]]:
        taken: list[Request[Some]] = []
        while self.ready and belongs(head := self.ready[0]):
            operation = head.operation
            if isinstance(operation, Save):
                most_saves -= 1
            if most_saves < 0 or isinstance(operation, Load) and operation.found is None:
                break
            taken.append(head)
            self.ready.popleft()
        return taken


def _is_compute(request: Request[Operation]) -> TypeGuard[Request[Compute]]:
    return isinstance(request.operation, Compute)


def _is_step(request: Request[Operation]) -> TypeGuard[Request[Step]]:
    return isinstance(request.operation, Step)


def _is_save(request: Request[Operation]) -> TypeGuard[Request[Save | Snapshot]]:
    return isinstance(request.operation, Save | Snapshot)


def _is_control(request: Request[Operation]) -> TypeGuard[Request[Operation]]:
    return not isinstance(request.operation, Compute | Step)
