"""Checkpoints on disk: ROOT/RUN/weights/NAME to train on, ROOT/RUN/sampler_weights/NAME to sample,
ROOT/RUN/external_weights/NAME to take away.

A checkpoint is a folder of safetensors and `checkpoint.json`, complete or not there at all (see
durable.py), and a PEFT folder: `PeftModel.from_pretrained` takes it as it is. Nothing is cached:
what the disk says is what is served.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sft.local.engine_api import AdapterState, LoraSpec
from sft.local.peft_config import adapter_config
from sft.local.server import durable

KINDS = ("weights", "sampler_weights", "external_weights")
TTL_BOUNDS = (3600, 10 * 365 * 24 * 3600)  # seconds, as the SDK documents them
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:=+@,-]{0,199}")
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"  # as PEFT names them
_OPTIMIZER, _META = "optimizer.safetensors", "checkpoint.json"


class StoreError(Exception):
    """A checkpoint cannot be written, found or read; the message is for the client's user."""


class BadTtl(StoreError):
    """A time to live out of bounds."""


@dataclass(frozen=True)
class CheckpointPath:
    """tinker://RUN/KIND/NAME, every part safe as a file name."""

    run: str
    kind: str
    name: str

    def __post_init__(self) -> None:
        for what, part in (("training run id", self.run), ("checkpoint name", self.name)):
            if not _SAFE.fullmatch(part):
                raise StoreError(
                    f"{part!r} is not a {what}: expected up to 200 letters, digits and _.:=+@,- "
                    "that start with a letter, digit or _"
                )
        if self.kind not in KINDS:
            raise StoreError(f"{self.kind!r} is not a kind of checkpoint: expected {KINDS}")

    @staticmethod
    def parse(text: str) -> CheckpointPath:
        parts = text.removeprefix("tinker://").split("/")
        if not text.startswith("tinker://") or len(parts) != 3:
            raise StoreError(
                f"{text!r} is not a checkpoint: expected tinker://RUN/weights/NAME, "
                "tinker://RUN/sampler_weights/NAME or tinker://RUN/external_weights/NAME"
            )
        return CheckpointPath(*parts)

    def __str__(self) -> str:
        return f"tinker://{self.run}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class Checkpoint:
    """What `checkpoint.json` says. Times are seconds since the epoch."""

    run: str
    kind: str
    name: str
    base_model: str
    lora: LoraSpec
    created: float
    expires: float | None = None
    user_metadata: dict[str, str] | None = None
    run_metadata: dict[str, str] | None = None  # of the training run it belongs to
    files: dict[str, int] = field(default_factory=dict)  # name -> bytes
    public: bool = False  # published; whoever has the service's key reads it either way

    @property
    def path(self) -> CheckpointPath:
        return CheckpointPath(self.run, self.kind, self.name)

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def to_json(self) -> bytes:
        return json.dumps({"format": 1, **asdict(self)}, indent=1).encode()

    @staticmethod
    def from_json(content: bytes) -> Checkpoint:
        values = json.loads(content)
        if values.pop("format") != 1:
            raise ValueError("unknown format")
        return Checkpoint(**{**values, "lora": LoraSpec(**values["lora"])})


def check_ttl(seconds: int | None) -> None:
    if seconds is not None and not TTL_BOUNDS[0] <= seconds <= TTL_BOUNDS[1]:
        raise BadTtl(
            f"ttl_seconds is {seconds}: expected None or {TTL_BOUNDS[0]} (1 hour) to "
            f"{TTL_BOUNDS[1]} (10 years)"
        )


class Store:
    """All checkpoints under one root. Safe to call from several threads."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time):
        self.root = root
        self._clock = clock
        self._lock = threading.RLock()
        root.mkdir(parents=True, exist_ok=True)
        for parent in self._parents():
            durable.recover(parent)

    def write(
        self,
        path: CheckpointPath,
        state: AdapterState,
        *,
        ttl_seconds: int | None = None,
        user_metadata: dict[str, str] | None = None,
        run_metadata: dict[str, str] | None = None,
        overwrite: bool = False,
    ) -> Checkpoint:
        """On return the checkpoint is complete and synced; on an error there is nothing of it.

        Raises `StoreError` if the name is taken and `overwrite` is False, or the TTL (in seconds)
        is out of bounds.
        """
        check_ttl(ttl_seconds)
        with self._lock:
            if not overwrite and self._alive(path) is not None:
                raise StoreError(
                    f"{path} exists already: choose another name, delete it, or save with "
                    "overwrite=True"
                )
            now = self._clock()
            tensors = {_WEIGHTS: state.weights}
            if path.kind == "weights" and state.optimizer is not None:
                tensors[_OPTIMIZER] = state.optimizer
            meta: list[Checkpoint] = []

            def fill(folder: Path) -> None:
                for name, arrays in tensors.items():
                    save_file({key: _plain(array) for key, array in arrays.items()}, folder / name)
                text = json.dumps(adapter_config(state), indent=1)
                (folder / _CONFIG).write_text(text)
                sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
                expires = None if ttl_seconds is None else now + ttl_seconds
                checkpoint = Checkpoint(
                    **asdict(path), base_model=state.base_model, lora=state.lora, created=now,
                    expires=expires, user_metadata=user_metadata, run_metadata=run_metadata,
                    files=sizes,
                )  # fmt: skip
                (folder / _META).write_bytes(checkpoint.to_json())
                meta.append(checkpoint)

            folder = self.folder(path)
            durable.make_folders(folder.parent, self.root)
            durable.write_folder(folder, fill)
            return meta[0]

    def get(self, path: CheckpointPath) -> Checkpoint:
        """Raises `StoreError` if there is none, or it is not whole, or it has expired."""
        checkpoint = self._alive(path)
        if checkpoint is None:
            with self._lock:  # an overwrite may just be between its two renames
                checkpoint = self._alive(path)
        if checkpoint is None:
            raise StoreError(
                f"there is no checkpoint {path} here: it was never saved, was deleted or expired"
            )
        return checkpoint

    def read(self, path: CheckpointPath, optimizer: bool = False) -> AdapterState:
        """The saved state; its optimizer is None if none was saved or asked for.

        Raises `StoreError`.
        """
        with self._lock:
            checkpoint, folder = self.get(path), self.folder(path)
            moments = None
            try:
                if optimizer and _OPTIMIZER in checkpoint.files:
                    moments = load_file(folder / _OPTIMIZER)
                weights = load_file(folder / _WEIGHTS)
            except Exception as error:  # safetensors has errors of its own
                raise StoreError(f"{path} cannot be read: {error}") from error
        return AdapterState(checkpoint.base_model, checkpoint.lora, weights, moments)

    def delete(self, path: CheckpointPath) -> None:
        with self._lock:
            self.get(path)
            durable.remove_folder(self.folder(path))

    def set_ttl(self, path: CheckpointPath, ttl_seconds: int | None) -> None:
        """Counts from now; None keeps the checkpoint for good."""
        check_ttl(ttl_seconds)
        self._change(path, expires=None if ttl_seconds is None else self._clock() + ttl_seconds)

    def publish(self, path: CheckpointPath, public: bool) -> None:
        self._change(path, public=public)

    def _change(self, path: CheckpointPath, **values: object) -> None:
        with self._lock:
            changed = replace(self.get(path), **values)  # type: ignore[arg-type]
            durable.write_file(self.folder(path) / _META, changed.to_json())

    def peft_files(self, path: CheckpointPath) -> list[Path]:
        """The files that make the checkpoint a PEFT folder.

        Raises `StoreError`.
        """
        if _CONFIG not in self.get(path).files:
            raise StoreError(
                f"{path} was saved by an older version of the local service, which wrote no "
                f"{_CONFIG}: load it and save it once more"
            )
        return [self.folder(path) / name for name in (_CONFIG, _WEIGHTS)]

    def list(self, run: str | None = None) -> list[Checkpoint]:
        """All that is alive, newest first."""
        found = []
        for parent in self._parents(run):
            for folder in parent.iterdir():
                with contextlib.suppress(StoreError):
                    path = CheckpointPath(parent.parent.name, parent.name, folder.name)
                    if (checkpoint := self._alive(path)) is not None:
                        found.append(checkpoint)
        return sorted(found, key=lambda checkpoint: -checkpoint.created)

    def expire(self) -> None:
        """Deletes what has outlived its TTL."""
        for parent in self._parents():
            for folder in parent.iterdir():
                with self._lock, contextlib.suppress(StoreError, OSError):
                    path = CheckpointPath(parent.parent.name, parent.name, folder.name)
                    checkpoint = self._whole(path)
                    if checkpoint is not None and self._expired(checkpoint):
                        durable.remove_folder(folder)

    def folder(self, path: CheckpointPath) -> Path:
        return self.root / path.run / path.kind / path.name

    def _parents(self, run: str | None = None) -> Iterator[Path]:
        runs = [run] if run is not None else sorted(p.name for p in self.root.iterdir())
        for name in runs:
            for kind in KINDS:
                if _SAFE.fullmatch(name) and (self.root / name / kind).is_dir():
                    yield self.root / name / kind

    def _alive(self, path: CheckpointPath) -> Checkpoint | None:
        checkpoint = self._whole(path)
        return None if checkpoint is None or self._expired(checkpoint) else checkpoint

    def _whole(self, path: CheckpointPath) -> Checkpoint | None:
        """None if the folder is missing, or a file of it is missing or has another size."""
        folder = self.folder(path)
        try:
            checkpoint = Checkpoint.from_json((folder / _META).read_bytes())
            sizes = {name: (folder / name).stat().st_size for name in checkpoint.files}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return checkpoint if sizes == checkpoint.files else None

    def _expired(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.expires is not None and checkpoint.expires <= self._clock()


def unwritable(path: CheckpointPath, root: Path, error: Exception) -> str:
    """What kept a checkpoint from the disk below `root`, and what to do."""
    reason = getattr(error, "strerror", None) or str(error)
    free = shutil.disk_usage(root).free
    return (
        f"{path} could not be written below {root}: {reason} ({free / 1e6:,.0f} MB are free "
        "there); free some space, or mend what is wrong with that folder"
    )


def _plain(array: np.ndarray) -> np.ndarray:
    """Contiguous, as safetensors wants it; a scalar stays a scalar."""
    return np.require(array, requirements="C")
