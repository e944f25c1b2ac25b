"""Dataset builders of the user's own, named by import path."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput, nearest
from sft.types import SupervisedDatasetBuilder

if TYPE_CHECKING:
    from sft.types import ChatDatasetBuilderCommonConfig

NOT_IMPORTABLE = "not importable: "
"""Begins what `import_path` says of a class that another process could not import."""


def custom_builder(
    path: str, args: dict[str, Any], common_config: ChatDatasetBuilderCommonConfig
) -> SupervisedDatasetBuilder:
    """The builder `path` (`my_data:MyBuilder`) with the fields `args`.

    The module may lie in the current folder. `common_config` is passed to a builder that has such
    a field.

    Raises:
        BadInput: there is no such class, it is not a `SupervisedDatasetBuilder`, or `args` are not
            its fields.
    """
    builder = load_class(path)
    fields = {item.name: item for item in dataclasses.fields(builder) if item.init}
    has_common = fields.pop("common_config", None) is not None
    for name in args:
        if name not in fields:
            takes = f"; it takes {', '.join(fields)}" if fields else "; it takes none"
            raise BadInput(
                f"dataset.args.{name}: {path} has no such field{nearest(name, list(fields))}{takes}"
            )
    for name, item in fields.items():
        defaults = (item.default, item.default_factory)
        if name not in args and all(default is dataclasses.MISSING for default in defaults):
            raise BadInput(f"dataset.args.{name}: is missing; {path} has no default for it")
    values = dict(args) | ({"common_config": common_config} if has_common else {})
    try:
        return builder(**values)
    except (TypeError, ValueError) as error:
        raise BadInput(f"dataset.args: {path} refuses them: {error}") from error


def load_class(path: str) -> type[SupervisedDatasetBuilder]:
    """The class that `module:Name` names. Raises `BadInput`."""
    if path.startswith(NOT_IMPORTABLE):
        raise BadInput(
            f"dataset.builder: {path.removeprefix(NOT_IMPORTABLE)} was defined in a script, a "
            "notebook or a function; move it to a module to run it again"
        )
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise BadInput(f"dataset.builder: '{path}' is not of the form my_module:MyBuilder")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise BadInput(
                f"dataset.builder: there is no module '{module_name}' in {here} or among the "
                "installed packages"
            ) from None
        raise BadInput(f"dataset.builder: {module_name} cannot be imported: {error}") from error
    except Exception as error:
        raise BadInput(
            f"dataset.builder: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, SupervisedDatasetBuilder)):
        raise BadInput(_not_a_builder(path, module, name, found))
    if found.__dict__.get("__annotations__") and "__dataclass_fields__" not in found.__dict__:
        raise BadInput(f"dataset.builder: {path} is not a dataclass; write @dataclass above it")
    return found


def _not_a_builder(path: str, module: Any, name: str, found: Any) -> str:
    if found is not None:
        return f"dataset.builder: {path} is not a subclass of sft.types.SupervisedDatasetBuilder"
    classes = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, SupervisedDatasetBuilder)
        and value.__module__ == module.__name__
    ]
    return f"dataset.builder: {module.__name__} has no {name}{nearest(name, classes)}"


def import_path(builder: type) -> str:
    """`module:Name` of a class, or `NOT_IMPORTABLE` and its name where another process could not
    import it: one made in a script, a notebook or a function. A run of such a builder can be
    recorded, but not reproduced."""
    path = f"{builder.__module__}:{builder.__qualname__}"
    module = sys.modules.get(builder.__module__)
    importable = builder.__module__ != "__main__" and (
        getattr(module, builder.__qualname__, None) is builder
    )
    return path if importable else NOT_IMPORTABLE + path


def reproducible(settings: dict[str, Any]) -> bool:
    """Whether the dataset builder that a saved config names can be imported again."""
    builder = (settings.get("dataset") or {}).get("builder") or ""
    return not builder.startswith(NOT_IMPORTABLE)
