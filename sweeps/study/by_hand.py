"""Paused trials that the user goes on with by hand: `python -m sft.resume STUDY/7`.

Nothing tells the study of it. It is seen in the trial's run directories.
"""

from pathlib import Path

from optuna.trial import FrozenTrial

from sft.record.rundir import is_running, read_facts


def is_trained(trial: FrozenTrial) -> bool:
    """Whether a process trains a trial that no worker of the study has."""
    return any(map(is_running, directories(trial)))


def is_finished(trial: FrozenTrial) -> bool:
    """Whether every run of a trial came to its end."""
    found = directories(trial)
    return bool(found) and all(read_facts(folder).get("status") == "FINISHED" for folder in found)


def directories(trial: FrozenTrial) -> list[Path]:
    """The run directories of a trial, as far as they are on this machine."""
    return [path for path in map(Path, trial.user_attrs.get("directories", [])) if path.is_dir()]
