"""The day of a run: what a chat template that writes today's date writes for all of its life."""

from __future__ import annotations

import copy
import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.evaluators import SamplingEvaluatorBuilder
from sft.files import read_yaml
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    from sft.config.training import Config


def on_its_day(config: Config) -> Config:
    """`config` with the day on which its run began: that of its run directory, or today."""
    builder: Any = config.dataset_builder
    common = getattr(builder, "common_config", None)
    if common is None or common.date is not None:
        return config
    saved = Path(config.log_path) / "config.yaml"
    # One of an earlier version names no day; it stays as it is.
    day = read_yaml(saved).get("date") if saved.is_file() else datetime.date.today().isoformat()
    builder = copy.copy(builder)
    builder.common_config = dataclasses.replace(common, date=day)

    def dated(made: Any) -> Any:
        if isinstance(made, SamplingEvaluatorBuilder) and made.date is None:
            return dataclasses.replace(made, date=day)
        own = getattr(made, "common_config", None)
        if isinstance(own, ChatDatasetBuilderCommonConfig) and own.date is None:
            made = copy.copy(made)
            made.common_config = dataclasses.replace(own, date=day)
        return made

    return dataclasses.replace(
        config,
        dataset_builder=builder,
        evaluator_builders=list(map(dated, config.evaluator_builders)),
        infrequent_evaluator_builders=list(map(dated, config.infrequent_evaluator_builders)),
    )


def with_day(saved: dict[str, Any], config: Config) -> dict[str, Any]:
    """A saved config with the day of `config`."""
    common = getattr(config.dataset_builder, "common_config", None)
    return saved if common is None else {**saved, "date": common.date}
