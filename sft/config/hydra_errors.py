"""The errors of Hydra and OmegaConf as sentences that a person can act on."""

from __future__ import annotations

import dataclasses
from typing import Any

from sft.config.checking import dotted_values, kinds_of_groups, unknown_key
from sft.errors import BadInput, nearest

SWEEPER = "hydra.sweeper."


def translate(error: BaseException) -> BadInput:
    """Hydra's and OmegaConf's errors as one sentence that names the key."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue

    UNKNOWN = (ConfigAttributeError, ConfigKeyError)
    if isinstance(error, BadInput):
        return error
    seen: BaseException | None = error
    while seen is not None:
        full_key = getattr(seen, "full_key", None)
        if full_key:
            if full_key.startswith(SWEEPER) and isinstance(seen, UNKNOWN):
                return _no_such_sweeper_key(full_key)
            known = [name for name, _ in dotted_values()]
            message = str(getattr(seen, "msg", None) or seen).splitlines()[0]
            if full_key.startswith(SWEEPER) and message.endswith("is not Optional"):
                return _no_null(full_key)
            if isinstance(seen, UNKNOWN):
                return _of_another_kind(seen, full_key) or unknown_key(full_key, known)
            if isinstance(seen, MissingMandatoryValue):
                return BadInput(f"{full_key}: is missing; set {full_key}=VALUE")
            if message == "Cannot merge DictConfig with ListConfig":
                return BadInput(f"{full_key}: is a list; expected each by name: {full_key}.NAME…")
            return BadInput(f"{full_key}: {message}")
        seen = seen.__cause__
    return BadInput(str(error).strip().splitlines()[0])


def _of_another_kind(error: Any, full_key: str) -> BadInput | None:
    """The error for a key that other kinds of its group have; None if none has."""
    group, _, name = full_key.partition(".")
    schemas = kinds_of_groups().get(group, {})
    having = [
        kind
        for kind, schema in schemas.items()
        if name in [item.name for item in dataclasses.fields(schema)]
    ]
    chosen = error.parent_node and error.parent_node.get("kind")
    if not having or chosen not in schemas:
        return None
    if chosen == "mix":
        return BadInput(
            f"{full_key}: a mixture has no such key; its parts have: dataset.parts.NAME.{name}"
        )
    have = "has" if len(having) == 1 else "have"
    return BadInput(
        f"{full_key}: there is no such key with {group}={chosen}; {', '.join(having)} {have} it"
    )


def _no_null(full_key: str) -> BadInput:
    """The keys of the sweeper are the only ones whose types Hydra knows."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    keys: Any = OmegaConf.get_type(ConfigStore.instance().load("hydra/sweeper/sft.yaml").node)
    (item,) = (i for i in dataclasses.fields(keys) if SWEEPER + i.name == full_key)
    return BadInput(
        f"{full_key}: cannot be null (default: {item.default}); it takes: {item.metadata['help']}"
    )


def _no_such_sweeper_key(full_key: str) -> BadInput:
    """Hydra looks at the sweeper's keys before the sweeper does."""
    from hydra.core.config_store import ConfigStore

    known = [str(name) for name in ConfigStore.instance().load("hydra/sweeper/sft.yaml").node]
    name = full_key.removeprefix(SWEEPER)
    return BadInput(
        f"{full_key}: there is no such key{nearest(name, known)}; hydra.sweeper takes "
        f"{', '.join(key for key in known if not key.startswith('_'))}"
    )
