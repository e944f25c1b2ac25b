"""What a run tells the outside while it trains, and how the outside asks it to stop.

The training loop writes its own files; everything else that wants to follow a run (MLflow, the
terminal, a sweep) is a hook. Hooks are called on the event loop and return at once. A hook with
slow work to do hands it to a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sft.data.import_path import import_path, load_class
from sft.errors import BadInput

if TYPE_CHECKING:
    from sft.config.training import Config
    from sft.record.checkpoints import CheckpointRecord

Status = Literal["FINISHED", "FAILED", "KILLED", "PRUNED", "PAUSED"]
"""PAUSED is no end: the run has stopped at a checkpoint, and its sweep may let it go on."""


@dataclass
class Stop:
    """Why a run is to end before its last step."""

    reason: str
    status: Status


@dataclass
class Run:
    """A run as its hooks see it."""

    config: Config
    settings: dict[str, Any]
    """The saved config: plain nested values, what `config.yaml` holds."""
    directory: Path
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known once data and model are: steps, sequences, tokens, digest, parameters, and
    `without_effect`, sentences on settings that can have none."""
    start_step: int = 0
    """Updates that were applied before this process took over (> 0 when resumed)."""
    stopping: Stop | None = None
    pause_at: int | None = None
    """Updates after which the run pauses: with a checkpoint, and the evaluation due there."""

    def stop(self, reason: str, status: Status = "FINISHED") -> None:
        """Ask the loop to end between two steps, with a checkpoint. The first request counts."""
        if self.stopping is None:
            self.stopping = Stop(reason, status)


@dataclass
class FailedEvaluation:
    """An evaluation that measured nothing; training went on."""

    step: int
    name: str
    """Of the evaluator."""
    error: str


@dataclass
class RunResult:
    """How a run ended."""

    status: Status
    directory: Path
    name: str
    steps: int
    """Updates applied."""
    error: str | None = None
    reason: str | None = None
    """Why it ended early, if it did: early stopping, pruned, interrupted, diverged."""
    diverged: bool = False
    first: dict[str, float] = field(default_factory=dict)
    """The first value of each metric."""
    last: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    bests: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The step and the value of the best evaluation, for each metric of evaluations."""
    best: CheckpointRecord | None = None
    """The checkpoint that is best in the run's `metric`; None if none was evaluated."""
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Last rows of each evaluator's table by name, and those of step 0 under `NAME@start`."""
    failed_evaluations: list[FailedEvaluation] = field(default_factory=list)
    tokens: int = 0
    """Tokens trained on, repeats of an epoch included."""
    seconds: float = 0.0
    usd: float | None = None
    """What it has cost, earlier lives included; None if no price is known."""
    unpriced: list[str] = field(default_factory=list)
    """Kinds of tokens that it has used and that have no price: `usd` is the least that it cost."""

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return self.last


class Hook(Protocol):
    """Follows one run. Every method returns at once; `on_end` is called exactly once."""

    def on_start(self, run: Run) -> None: ...

    def on_progress(self, step: int, metrics: dict[str, float]) -> None: ...

    def on_metrics(self, step: int, metrics: dict[str, float], timestamp_ms: int) -> None: ...

    def on_checkpoint(self, record: CheckpointRecord) -> None: ...

    def on_table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None: ...

    def on_message(self, text: str) -> None: ...

    def on_end(self, result: RunResult) -> None: ...


class BaseHook:
    """A hook that does nothing: override what you need."""

    def on_start(self, run: Run) -> None:
        """Data and model are ready; the first step is about to be submitted."""

    def on_progress(self, step: int, metrics: dict[str, float]) -> None:
        """A step has been computed. For displays."""

    def on_metrics(self, step: int, metrics: dict[str, float], timestamp_ms: int) -> None:
        """`metrics` of `step` are in metrics.jsonl under that timestamp."""

    def on_checkpoint(self, record: CheckpointRecord) -> None:
        """`record` is in checkpoints.jsonl; called again when its evaluation arrives."""

    def on_table(self, name: str, step: int, rows: list[dict[str, Any]]) -> None:
        """An evaluator produced a table (generations, for instance) at `step`."""

    def on_message(self, text: str) -> None:
        """Something the user should read: a pause of the service, a lost session, a resume."""

    def on_end(self, result: RunResult) -> None:
        """The run has ended, well or not."""


def of_ones_own(paths: Sequence[str]) -> list[BaseHook]:
    """A hook of each class that the key `hooks` names, `my_module:MyHook`.

    Each is a subclass of `BaseHook` and made without arguments. Raises `BadInput`.
    """
    made = []
    for path in paths:
        hook = load_class("hooks", path, BaseHook)
        try:
            made.append(hook())
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BadInput(f"hooks: {path}() cannot be made: {what}") from error
    return made


def named(hooks: Sequence[Hook], settings: Mapping[str, Any]) -> list[Hook]:
    """Those of `hooks` that a saved config names: their code belongs to the run."""
    paths = settings.get("hooks") or []
    return [hook for hook in hooks if import_path(type(hook)) in paths]
