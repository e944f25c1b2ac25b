"""Dataset builders of the user's own."""

from __future__ import annotations

from typing import Any

from sft.data.import_path import build
from sft.types import ChatDatasetBuilderCommonConfig, SupervisedDatasetBuilder


def custom_builder(
    path: str,
    args: dict[str, Any],
    common_config: ChatDatasetBuilderCommonConfig,
    key: str = "dataset",
) -> SupervisedDatasetBuilder:
    """The builder `path` (`my_data:MyBuilder`) with the fields `args`. Raises `BadInput`.

    The module may lie in the current folder. `common_config` is passed to a builder that has such
    a field. `key` is what the config names it under, for messages.
    """
    found: SupervisedDatasetBuilder = build(
        key, path, args, SupervisedDatasetBuilder, common_config
    )
    return found
