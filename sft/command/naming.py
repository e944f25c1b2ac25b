"""What a run is called and where it lies, if its config does not say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.config.checking import dotted_values
from sft.config.data_name import data_name
from sft.config.schema import Settings
from sft.record.metrics import known_direction

NOT_IN_A_NAME = (
    *("model.", "dataset.", "service.", "tracking.", "evaluators.", "run_", "optimizer"),
    "hooks",
    *("date", "checkpoint.", "guard.", "eval_every", "save_every", "max_length", "submit_ahead"),
    *("prices.", "cost.", "budget."),
)


def default_name(settings: Settings) -> str:
    """A name that says what is different: first what was set on the way, then model and data.

    In this order since lists of runs cut long names at the end.
    """
    parts = []
    defaults = dict(dotted_values()) | {"direction": known_direction(settings.metric)}
    for name, value in dotted_values(settings):
        if not name.startswith(NOT_IN_A_NAME) and value not in (None, defaults.get(name, value)):
            parts.append(in_short(name, value))
    return joined([*parts, Path(settings.model.name).name, data_name(settings.dataset)])


def in_short(key: str, value: Any) -> str:
    """One setting as a part of a run's name: lr0.0003, rank8, cosine."""
    short = {"lora.rank": "rank", "max_steps": "steps", "batch_size": "batch"}
    short |= {"schedule.kind": "", "optimizer.kind": "", "checkpoint.step": "from"}
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    group, _, name = key.rpartition(".")
    if group.startswith("dataset.parts."):  # a weight of a mixture
        name = group.rpartition(".")[2] + name.replace("weight", "")
    return short.get(key, name) + text


def joined(parts: Sequence[str]) -> str:
    """A run's name from its parts, such as a folder can have."""
    return "-".join(part.replace("/", "_").replace(" ", "_") for part in parts)[:120]


def new_directory(settings: Settings) -> Path:
    """`run_dir`, or outputs/DATE/TIME-NAME; never one that another run started in this second."""
    if settings.run_dir:
        return Path(settings.run_dir)
    stem = Path(
        "outputs", time.strftime("%Y-%m-%d"), f"{time.strftime('%H-%M-%S')}-{settings.run_name}"
    )
    directory, number = stem, 2
    while directory.exists():
        directory, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return directory
