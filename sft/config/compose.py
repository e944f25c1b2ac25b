"""Composing a config with Hydra, with errors that a person can act on."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Any

from sft.config.checking import (
    check,
    dotted_values,
    kinds_of_groups,
    nearest_key,
    unknown_key,
)
from sft.config.hydra_errors import translate as translate
from sft.config.schema import Settings
from sft.config.secrets import hand_down
from sft.errors import BadInput, nearest
from sft.secrets import VARIABLES, mask_urls

PARAMS = "hydra.sweeper.params"
CONF = (Path(__file__).parents[1] / "conf").resolve()


def compose(overrides: list[str], config_dir: str | None = None) -> Settings:
    """The settings that `python -m sft OVERRIDES` would run with. Raises `BadInput`.

    `config_dir` is a folder of config files of the user's own.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    overrides = with_kind_of_data(overrides)
    check_overrides(overrides, config_dir)
    where = []
    if config_dir is not None:
        path = str(Path(config_dir).absolute()).replace("'", "\\'")
        where = [f"hydra.searchpath=['file://{path}']"]
    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return settings_of(hydra_compose("config", [*admitted(overrides), *where]))
    except Exception as error:
        raise translate(error) from error


def settings_of(composed: Any) -> Settings:
    """A composed config, interpolations resolved, checked against the schema. Raises `BadInput`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register()
    try:
        raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise translate(error) from error
    return check(raw)


@functools.cache  # once a process
def register() -> None:
    """Let `conf/` inherit every key with its default, and say `${sft.env:NAME,default}`.

    `keys` holds those of the schema; `GROUP/keys: KIND` those of a group whose keys depend on its
    kind, which is also what `GROUP=KIND` means if conf/ has no file for it. `sft.env` is a variable
    of the environment, which counts as unset when it is empty.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    def of_environment(name: str, default: Any) -> Any:
        return os.environ.get(name) or default

    OmegaConf.register_new_resolver("sft.env", of_environment, replace=True)
    store = ConfigStore.instance()
    kinds = kinds_of_groups()
    plain = dataclasses.asdict(Settings())
    plain["tracking"]["uri"] = None  # conf/tracking/mlflow.yaml names it; tracking=wandb has none
    store.store("keys", {name: value for name, value in plain.items() if name not in kinds})
    for group, schemas in kinds.items():
        for kind, schema in schemas.items():
            store.store(kind, dataclasses.asdict(schema()), group=f"{group}/keys")
            if not (CONF / group / f"{kind}.yaml").exists():
                store.store(kind, dataclasses.asdict(schema()), group=group)


def from_environment(composed: Any) -> dict[str, str]:
    """The keys of tracking that a variable gave, since nothing else did, and the variable."""
    from omegaconf import OmegaConf

    found = {}
    variables = {"uri": "MLFLOW_TRACKING_URI", "experiment": "MLFLOW_EXPERIMENT_NAME"}
    for name, variable in variables.items():
        node: Any = OmegaConf.to_container(composed.tracking, resolve=False)
        if str(node.get(name)).startswith("${sft.env:") and os.environ.get(variable):
            found[f"tracking.{name}"] = variable
    return found


def masked_arguments(arguments: list[str]) -> list[str]:
    """A command line whose URLs are masked; the whole ones are handed down by the environment.

    What Hydra composes, writes and pickles for its launchers' jobs never holds them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    def masked(word: str) -> str:
        name, equals, _ = word.partition("=")
        key = name.lstrip("+")
        if not equals or key not in VARIABLES:
            return word
        try:
            url = OverridesParser.create().parse_override(word).value()
        except HydraException:  # said when overrides are checked
            return word
        if not isinstance(url, str) or mask_urls(url) == url:
            return word
        return f'{name}="{hand_down(url, key)}"'

    return [masked(word) for word in arguments]


def groups(folders: list[Path] | None = None) -> dict[str, list[str]]:
    """The config groups and their options, from conf/ and any further config folder."""
    found: dict[str, set[str]] = {}
    for group, kinds in kinds_of_groups().items():
        found.setdefault(group, set()).update(kinds)
    for folder in folders or [CONF]:
        for file in folder.glob("*/**/*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            found.setdefault(group, set()).add(file.stem)
    return {group: sorted(options) for group, options in sorted(found.items())}


def check_overrides(overrides: list[str], config_dir: str | None = None) -> None:
    """Refuse an override of a key, a group or an option that does not exist. Raises `BadInput`."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise BadInput(f"--config-dir: there is no folder {config_dir}")
    options = groups([CONF, Path(config_dir)] if config_dir else None)
    known = key_names()
    for text in overrides:
        override = parsed(text)
        name = override.key_or_group
        if override.is_delete() and name in known:
            raise BadInput(f"{text}: a key cannot be left out; {name}=VALUE sets it")
        if name == PARAMS and "(" in text and not override.is_sweep_override():
            _check_quoted(text, override)
        if name.startswith("hydra") and (name == "hydra" or name[5] in "./"):
            continue
        if name in options:
            _check_choice(name, override, options[name])
        elif not _is_key(name, known):
            raise _no_such(name, known, options)


def parsed(text: str) -> Any:
    """An override as Hydra reads it. Raises `BadInput`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"'{text}' is not key=value: {reason}") from None


def holds_own_keys(name: str) -> bool:
    """Whether the key `name` is a mapping or a list of the user's own, or lies inside one."""
    known = key_names() | {PARAMS: True}
    return known.get(name, _is_key(name, known))


def with_kind_of_data(words: list[str]) -> list[str]:
    """A command line's `words`, with `dataset=file` before a `dataset.path=FILE` on its own, and
    `dataset=mix` before parts.

    An experiment of the user's own may choose the kind of data, so beside one nothing is added.
    """
    words = list(map(_with_quoted_path, words))
    names = [word.partition("=")[0].lstrip("+") for word in words]
    if not CHOOSE_DATA.isdisjoint(names):
        return words
    for key, kind in (("dataset.parts", "mix"), ("dataset.path", "file")):
        for index, name in enumerate(names):
            if name == key or name.startswith(f"{key}."):
                return [*words[:index], f"dataset={kind}", *words[index:]]
    return words


def _with_quoted_path(word: str) -> str:
    """A `dataset.path=FILE` (or an evaluator's) whose FILE Hydra could not read, or would read as
    something else."""
    name, _, path = word.partition("=")
    if not re.fullmatch(r"\+*(?:dataset|evaluators)\.(?:[\w-]+\.)*path", name) or path[:1] in (
        "'",
        '"',
        "",
    ):
        return word
    if not os.path.exists(Path(path).expanduser()):  # or it may not be looked at
        try:
            parsed(word)
            return word
        except BadInput:
            pass
    elif re.fullmatch(r"[\w./~-]+", path, re.ASCII):
        return word
    quoted = path.replace("'", "\\'")
    return f"{name}='{quoted}'"


CHOOSE_DATA = {"dataset", "dataset.kind", "experiment"}
"""Names of a command line that say what kind the data is."""


def admitted(overrides: list[str]) -> list[str]:
    """`overrides` with those that may bring keys of the user's own (`dataset.args.path=…`,
    `model.chat_template_kwargs={…}`, `hydra.sweeper.params.lr=…`) written as Hydra wants an
    addition written."""

    def written(text: str) -> str:
        name, _, value = text.partition("=")
        if not holds_own_keys(name):
            return text
        if name.startswith(PARAMS) and parsed(text).is_sweep_override():
            # There a search space is text; Hydra would take it for a sweep over itself.
            value = "'" + value.replace("'", "\\'") + "'"
        return f"++{name}={value}"

    return [written(text) for text in overrides]


def _check_quoted(text: str, override: Any) -> None:
    """Refuse {lr: choice(…)}, whose search space Hydra would read as something of its own."""
    from hydra.core.override_parser.types import Sweep

    spaces = override._value.items() if isinstance(override._value, dict) else ()
    for name, value in spaces:
        if isinstance(value, Sweep):
            raise BadInput(
                f"{PARAMS}: a search space in braces is text; put quotation marks around it: "
                f"{{{name}: '…'}}, or write {name}=… on its own"
            )


def _check_choice(group: str, override: Any, options: list[str]) -> None:
    if override.is_sweep_override():
        chosen = [str(value) for value in override.sweep_string_iterator()]
    elif isinstance(override.value(), list):
        chosen = [str(value) for value in override.value()]
    else:
        chosen = [] if override.value() is None else [str(override.value())]
    for choice in chosen:
        if choice.removesuffix(".yaml") not in options:
            raise BadInput(
                f"{group}: '{choice}' is not one of {', '.join(options)}"
                f"{nearest(choice, options)} (a key of the group is set as {group}.KEY=VALUE)"
            )


def _is_key(name: str, known: dict[str, bool]) -> bool:
    """Whether `name` is a key, or lies inside one that holds a mapping or a list of its own."""
    if name in known:
        return True
    parts = name.split(".")
    return any(known.get(".".join(parts[:length]), False) for length in range(1, len(parts)))


def _no_such(name: str, known: dict[str, bool], options: dict[str, list[str]]) -> BadInput:
    group = name.partition(".")[0]
    own = [key for key, holds in known.items() if holds and key.startswith(f"{group}.")]
    head = ".".join(name.split(".")[:2])  # dataset.part of dataset.part.math.weight
    if head not in known and name != head and (meant := nearest(head, own)):
        return BadInput(f"{name}: there is no such key as {head}{meant}")
    if group in options and "." not in name or group not in options:
        candidates = [*known, *options]
        return BadInput(f"{name}: there is no such key{nearest_key(name, candidates)}")
    return unknown_key(name, [key for key in known if key.startswith(f"{group}.")])


def key_names() -> dict[str, bool]:
    """Every key that some choice of groups has; True if it holds keys of the user's own."""
    names = {name: isinstance(value, dict | list) for name, value in dotted_values()}
    schemas = {group: list(kinds.values()) for group, kinds in kinds_of_groups().items()}
    for group, kinds in schemas.items():
        for schema in kinds:
            for item in dataclasses.fields(schema):
                holds = any(word in str(item.type) for word in ("dict", "list"))
                names[f"{group}.{item.name}"] = holds or names.get(f"{group}.{item.name}", False)
    names.pop("dataset", None)
    return names
