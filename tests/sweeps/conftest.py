"""Sweeps as a user starts them, on a tiny model."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft.record.checkpoints import CheckpointRecord, read
from sft.record.rundir import read_facts

WORDS = "red green blue black white one two three four five six seven eight nine ten".split()
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def chats(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sweep-data") / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say {WORDS[i % 15]} and {WORDS[i * 7 % 15]}."},
                {"role": "assistant", "content": f"{WORDS[i % 15]} {WORDS[i * 7 % 15]}"},
            ]
        }
        for i in range(28)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def overrides(chats, tiny_model) -> list[str]:
    """A run of four steps with an evaluation every two."""
    return [
        "model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}", "dataset=jsonl",
        f"dataset.path={chats}", "dataset.eval_size=4", "batch_size=4", "max_length=128",
        "max_steps=4", "eval_every=2", "save_every=2", "evaluators.held_out_answers=0",
    ]  # fmt: skip


@pytest.fixture
def on_service(local_service) -> list[str]:
    """Overrides that train on the tests' shared local service."""
    return ["service=custom", f"service.base_url={local_service}"]


@pytest.fixture
def sweep(monkeypatch, tmp_path, overrides, on_service) -> Callable[..., int]:
    """Runs `python -m sft --multirun …` in this process, in a folder of its own; the exit code."""
    from sft.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, tracking: str = "null") -> int:
        argv = ["--multirun", *overrides, *on_service, f"tracking.uri={tracking}", *arguments]
        monkeypatch.setattr(sys, "argv", ["sft", *argv])
        try:
            return main(argv)
        except SystemExit as end:
            return end.code

    return run


@pytest.fixture
def start_sweep(tmp_path, overrides, on_service, local_service) -> Callable[..., subprocess.Popen]:
    """Starts `python -m sft --multirun …` as a process of its own."""
    from sft.service.child import api_key

    started: list[subprocess.Popen] = []

    def start(*arguments: str, folder: Path = tmp_path) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        environment = os.environ | {
            "PYTHONPATH": str(PROJECT),
            "TINKER_API_KEY": api_key(local_service),
        }
        with open(folder / "sweep.log", "a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sft", "--multirun", *overrides, *on_service, *arguments],
                cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def study_of(name: str, folder: Path = Path()):
    """A study in outputs/sweeps of a folder, as it stands."""
    from sft.sweeps.study import storage

    return storage.load_study(name, root=folder / storage.ROOT)[0]


def rows_of(name: str, number: int | str, folder: Path = Path()) -> list[dict]:
    """The rows of a trial's metrics.jsonl."""
    from sft.record import metrics
    from sft.sweeps.study import storage

    return metrics.read(folder / storage.ROOT / name / str(number) / "metrics.jsonl")


def checkpoints(directory: Path) -> list[CheckpointRecord]:
    """Those of a run directory so far."""
    file = directory / "checkpoints.jsonl"
    return read(file) if file.exists() else []


LONG = ("lr=choice(1e-3)", "epochs=40", "max_steps=120", "eval_every=10", "save_every=10")
"""A sweep of one trial that is long enough to be killed in the middle."""


def assert_goes_on_from_its_checkpoint(process, folder: Path, kill: Callable[[], object]) -> None:
    """`kill` what trains the one trial of sweep s (`LONG`): it ends, and no step that was saved
    is trained again."""
    directory = folder / "outputs" / "sweeps" / "s" / "0"
    deadline = time.monotonic() + 300
    while len(checkpoints(directory)) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)
    kill()
    killed = time.time()
    saved = checkpoints(directory)[-1].step
    assert process.wait(400) == 0, (folder / "sweep.log").read_text()
    assert read_facts(directory)["status"] == "FINISHED"
    rows = rows_of("s", 0, folder)
    assert [row["step"] for row in rows] == list(range(121))
    before = [row["step"] for row in rows if row["timestamp"] / 1000 < killed]
    assert saved - 1 <= before[-1] < 120
