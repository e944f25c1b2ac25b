"""What the name of a model means on this machine: the demo model, a folder, or neither."""

from __future__ import annotations

import re
from pathlib import Path

from sft.errors import BadInput
from sft.models import demo


def of_hub(name: str) -> str:
    """The Hub's id of a model that a service offers with another context as well.

    >>> of_hub("Qwen/Qwen3.8-27B:peft:262144")
    'Qwen/Qwen3.8-27B'
    """
    return name.partition(":peft:")[0]


def hub_id(name: str) -> str | None:
    """The Hub's id of the model `name`; None of a folder that may come from anywhere.

    >>> hub_id("Qwen/Qwen3-8B"), hub_id("./models/mine")
    ('Qwen/Qwen3-8B', None)
    """
    if name == demo.NAME:
        return demo.HUB
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", of_hub(name)) is not None
    return of_hub(name) if is_id and not Path(name).is_dir() else None


def folder_or_name(name: str) -> str:
    """The folder of the demo model if `name` means it, else `name` itself. Raises `BadInput`."""
    return str(demo.folder()) if name == demo.NAME else name


def model_folder(name: str) -> str | None:
    """The folder that holds the model `name` on this machine; None: the service knows the name."""
    if name == demo.NAME:
        return str(demo.folder())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if name.startswith((".", "/", "~")):
        raise BadInput(f"model.name: there is no folder {name}")
    return None
