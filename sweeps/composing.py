"""From the parameters of a trial to its settings, as Hydra composes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from sft.config.compose import admitted, check_overrides, settings_of, translate
from sft.config.schema import Settings
from sft.sweeps.parameters import ends
from sft.sweeps.space import SearchSpace


@dataclass(frozen=True)
class Composer:
    """What a sweep was started with: Hydra's part, and what is varied.

    Used by one thread at a time.
    """

    context: HydraContext
    config: DictConfig
    """The sweep's own, with `hydra`."""
    searched: SearchSpace

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """The settings of a trial with these parameters. Raises `BadInput`."""
        overrides = self.overrides(values)
        check_overrides(overrides, self._own_configs)
        try:
            composed = self.context.config_loader.load_sweep_config(self.config, overrides)
        except Exception as error:
            raise translate(error) from error
        with open_dict(composed):
            del composed["hydra"]
        return settings_of(composed)

    @property
    def _own_configs(self) -> str | None:
        """The folder of `--config-dir`, which may hold further options of the groups."""
        sources = self.config.hydra.runtime.config_sources
        return next((s.path for s in sources if s.provider == "command-line"), None)

    @property
    def options(self) -> list[str]:
        """The words before the keys of every command that is to compose what this sweep does."""
        if self._own_configs is None:
            return []
        here, there = Path(self.config.hydra.runtime.cwd), Path(self._own_configs).absolute()
        shown = there.relative_to(here) if there.is_relative_to(here) else there
        return ["--config-dir", str(shown)]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """What Hydra is to compose a trial from."""
        return admitted(self.searched.overrides(values))

    @property
    def first(self) -> dict[str, Any]:
        """A point of the space: the first choice or the lower end of each parameter.

        Of the space that the study began with: what a study is about is known by it.
        """
        return {
            name: ends(self.searched.began.get(name, distribution))[0]
            for name, distribution in self.searched.distributions.items()
        }
