"""The name of a run's data, wherever data is named: in run names, the banner, lists and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def data_name(dataset: Any) -> str:
    """What `dataset` (a saved config's group, or its dataclass) is called.

    The last part of its file, folder or Hub id, with the configuration if one is named; the
    class of a builder of the user's own; a mixture's parts; otherwise its kind.

    >>> data_name({"kind": "hf_chat", "path": "data/chats.csv", "name": None})
    'chats.csv'
    >>> data_name({"kind": "custom", "builder": "my_data:MyBuilder", "args": {}})
    'MyBuilder'
    """
    values = dataset if isinstance(dataset, Mapping) else vars(dataset)
    if builder := values.get("builder"):
        return str(builder).rpartition(":")[2].rpartition(".")[2]
    if values.get("kind") == "mix":
        return "-".join(["mix", *(values.get("parts") or {})])
    parts = [str(values.get("path") or "").rstrip("/").rpartition("/")[2], values.get("name")]
    return "-".join(part for part in parts if part) or str(values.get("kind") or "data")
