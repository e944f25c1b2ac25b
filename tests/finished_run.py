"""A finished run of a tiny model, as the command line makes it, in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chat_data import write_chats


def overrides(tiny_model: Path) -> list[str]:
    """A run of a few seconds: 6 steps, evaluated at 0, 3 and 6, saved at 3 and 6."""
    return [
        "dataset=jsonl",
        "dataset.path=chats.jsonl",
        "dataset.eval_size=4",
        "model=folder",
        f"model.name={tiny_model}",
        "service.dtype=float32",
        "batch_size=2",
        "max_length=128",
        "max_steps=6",
        "lora.rank=4",
        "lr=1e-2",
        "eval_every=3",
        "save_every=3",
        "evaluators=none",
    ]


def finished_run(folder: Path, tiny_model: Path, *more: str, directory: str = "run") -> Path:
    """Train in `folder`, with an MLflow store beside it; the run directory."""
    if not (folder / "chats.jsonl").exists():
        write_chats(folder / "chats.jsonl", count=24)
    done = subprocess.run(
        [sys.executable, "-m", "sft", *overrides(tiny_model), f"run_dir={directory}", *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / directory
