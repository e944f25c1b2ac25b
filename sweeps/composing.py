"""From the parameters of a trial to its settings, as Hydra composes them."""

from collections.abc import Mapping
from dataclasses import dataclass
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
        # A folder of the user's own (--config-dir) may hold further options of the groups.
        sources = self.config.hydra.runtime.config_sources
        own = next((s.path for s in sources if s.provider == "command-line"), None)
        check_overrides(overrides, own)
        try:
            composed = self.context.config_loader.load_sweep_config(self.config, overrides)
        except Exception as error:
            raise translate(error) from error
        with open_dict(composed):
            del composed["hydra"]
        return settings_of(composed)

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
