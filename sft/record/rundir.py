"""The run directory: what a run writes, and who is writing it.

config.yaml         the resolved config: enough to run again
metrics.jsonl       one object a step
batches.jsonl       one object a step: a digest of what was trained on
checkpoints.jsonl   one object a checkpoint
examples/           what evaluations are made of, a file each
system.jsonl        one object for each sample of CPU, memory and GPU, if the run is tracked
usage.jsonl         one object a step and an evaluation: tokens that are billed so far, by kind
run.json            provenance, state and end of the run
run.log             what was said
run.lock            held by the process that trains; free if none does
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import BadInput
from sft.files import dump_yaml, read_yaml, replace_durably
from sft.record import provenance
from sft.record.checkpoints import CheckpointFile
from sft.record.examples import ExamplesFolder
from sft.record.metrics import MetricsFile
from sft.secrets import differing, mask_urls

BATCHES_FILE = "batches.jsonl"
MAY_CHANGE = {"budget"}
"""Keys of the config that a run may go on with another value of."""
OF_AN_END = ("steps", "tokens", "last", "best", "verdict")
"""Facts that say how a run ended: those of a life that was interrupted do not outlast it."""


class LogFormat(logging.Formatter):
    """How run.log is written: with the time, and without the passwords of URLs."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return mask_urls(super().format(record))


@dataclass
class RunDirectory:
    """An open run directory; only the process that holds its lock writes to it."""

    path: Path
    name: str
    metrics: MetricsFile
    batches: MetricsFile
    checkpoints: CheckpointFile
    examples: ExamplesFolder
    log: logging.Logger
    facts: dict[str, Any]

    def record(self, **facts: Any) -> None:
        """Add `facts` to run.json."""
        self.facts |= facts
        replace_durably(self.path / "run.json", json.dumps(self.facts, indent=2) + "\n")

    def begin(self, origin: dict[str, Any] | None = None) -> None:
        """Record that a process trains here, and on what.

        What an earlier life recorded as its end is forgotten, but for its seconds: those of this
        life are added to them. Raises `BadInput` if the data is not that of before.
        """
        origin = origin or {}
        then, now = _digests(self.facts), _digests(origin)
        for key, digest in then.items():
            if digest and digest != now.get(key):
                raise BadInput(
                    f"run_dir: {self.path} holds a run that began on other data (its {key} was "
                    f"{digest} and is now {now.get(key)}): resumed, it would repeat "
                    "some of it and skip some; put the data back, or train anew in another "
                    "directory (checkpoint.load starts from the weights of a checkpoint)"
                )
        for key in OF_AN_END:
            self.facts.pop(key, None)
        self.record(**origin, status="RUNNING", error=None, reason=None, ended=None)

    def finish(self, status: str, error: str | None, seconds: float, **facts: Any) -> None:
        """Record how the run ended; `seconds` are those of this life of it."""
        seconds += self.facts.get("seconds") or 0.0
        self.record(status=status, error=error, ended=time.time(), seconds=seconds, **facts)
        self.log.info("ended %s%s", status, f": {error}" if error else "")


def _digests(facts: Mapping[str, Any]) -> dict[str, str | None]:
    """The digests of all data that a run is made from, by what messages call them."""
    found = {key: facts.get(key) for key in ("digest", "held_out_digest")}
    sets = facts.get("eval_set_digests") or {}
    return found | {f"digest of the set {name}": digest for name, digest in sets.items()}


@contextmanager
def hold(
    path: Path,
    settings: dict[str, Any],
    origin: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
    completed: Callable[[dict[str, Any], str], dict[str, Any]] = lambda saved, source: saved,
) -> Iterator[RunDirectory]:
    """Make the run directory at `path`, or take up the one that an ended process left there.

    `origin` holds the digests of what the run is made from, see `sft.run.plan.Plan.origin`;
    `overrides` are what a command set, for the record; `completed` adds to a saved config the keys
    that have come since it was written (see `sft.config.saved.completed`).

    Raises `BadInput` if another process trains there, or if the directory holds a run of a
    different config or of other data. A directory that was made here is then removed again; one
    that was there says of its run what it said before.
    """
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"run_dir: {path} cannot be made: {error.strerror}") from error
    try:
        with _lock(path):
            _write_settings(path, settings, completed)
            log = _logger(path)
            state = RunDirectory(
                path=path,
                name=settings.get("run_name") or path.name,
                metrics=MetricsFile(path / "metrics.jsonl"),
                batches=MetricsFile(path / BATCHES_FILE),
                checkpoints=CheckpointFile(path / "checkpoints.jsonl"),
                examples=ExamplesFolder(path),
                log=log,
                facts=read_facts(path),
            )
            before = dict(state.facts)
            try:
                if not state.facts:
                    made_with = provenance.collect(overrides=overrides)
                    state.record(name=state.name, started=time.time(), **made_with)
                state.begin(origin)
                yield state
            except BadInput:
                if before:  # the run of before stands as it ended
                    state.facts = before
                    state.record()
                raise
            finally:
                state.metrics.close()
                state.batches.close()
                for handler in list(log.handlers):
                    log.removeHandler(handler)
                    handler.close()
    except BadInput:
        if made:
            shutil.rmtree(path)
        raise


def read_facts(path: Path) -> dict[str, Any]:
    """What run.json of the run directory `path` says; empty if there is none."""
    file = path / "run.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def end(path: Path, status: str, reason: str, at: float) -> None:
    """Record that the run at `path`, which no process trains any more, has ended at `at`."""
    facts = read_facts(path) | {"status": status, "reason": reason, "ended": at}
    replace_durably(path / "run.json", json.dumps(facts, indent=2) + "\n")


def is_running(path: Path) -> bool:
    """Whether a process trains in the run directory `path` right now."""
    try:
        with _lock(path):
            return False
    except BadInput:
        return True


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with (path / "run.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"run_dir: another process is training in {path}; wait for it or name another"
            ) from None
        yield


def _write_settings(
    path: Path,
    settings: dict[str, Any],
    completed: Callable[[dict[str, Any], str], dict[str, Any]],
) -> None:
    file = path / "config.yaml"
    there = read_yaml(file) if file.exists() else {}
    before = completed(there, str(file)) if there else settings
    if keys := sorted({*differing(before, settings)} - MAY_CHANGE):
        raise BadInput(
            f"run_dir: {path} holds a run with a different config ({', '.join(keys)}); "
            "name another directory, or continue that run with python -m sft.resume"
        )
    if there != settings:  # new, or written before passwords were left out
        replace_durably(file, dump_yaml(settings))


def _logger(path: Path) -> logging.Logger:
    """A logger that writes to this run's run.log alone, apart from all other logging."""
    log = logging.Logger(f"sft.run.{path.name}")
    handler = logging.FileHandler(path / "run.log", encoding="utf-8")
    handler.setFormatter(LogFormat())
    log.addHandler(handler)
    return log
