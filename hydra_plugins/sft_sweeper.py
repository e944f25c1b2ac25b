"""Names the project's sweeper to Hydra, which loads plugins from this namespace package only.

Imported at every start: nothing heavy here.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sft.sweeps.keys import SweeperKeys


@dataclass
class Target:
    """What Hydra makes of a config: the class that it names."""

    _target_: str = "hydra_plugins.sft_sweeper.SftSweeper"


@dataclass
class SftSweeperConf(SweeperKeys, Target):
    """hydra.sweeper.* as Hydra shows it: its own key first, since fields of the last base lead."""


class SftSweeper(Sweeper):
    """Hands a sweep over to sweeps/command.py."""

    def __init__(self, **options: Any) -> None:
        """The options are left alone: Hydra gives them to `setup` too, within the whole config."""
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        from sft.sweeps.command import run  # imports optuna

        assert self.hydra_context is not None and self.config is not None  # Hydra has called setup
        code = run(self.hydra_context, self.config, arguments)
        if code:
            # Hydra has no way to return a sweep's exit code.
            raise SystemExit(code)


ConfigStore.instance().store(group="hydra/sweeper", name="sft", node=SftSweeperConf, provider="sft")
