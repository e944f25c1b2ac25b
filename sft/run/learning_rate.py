"""`lr=auto` becomes a number, once the plan says how long the run is and before it is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sft.config.schema import AUTO
from sft.files import read_yaml
from sft.prior.first_guess import FirstGuess, first_guess
from sft.prior.setting import Setting

if TYPE_CHECKING:
    from sft.config.training import Config
    from sft.run.plan import Plan


def found(config: Config, plan: Plan) -> tuple[Config, FirstGuess | None]:
    """`config` with a number for its learning rate, and the guess that gave it, if one did.

    A run that began in `config.log_path` keeps the rate with which it began.
    """
    if config.learning_rate != AUTO:
        return config, None
    saved = Path(config.log_path) / "config.yaml"
    if saved.is_file() and (began := read_yaml(saved).get("lr")) is not None:
        return replace(config, learning_rate=began), None
    common = getattr(config.dataset_builder, "common_config", None)
    size = getattr(common, "batch_size", None) or len(plan.data.get_batch(0))
    setting = Setting(size, plan.total_steps)
    guess = first_guess(config.model_name, config.lora_rank, setting, config.lr_schedule)
    return replace(config, learning_rate=guess.lr), guess
