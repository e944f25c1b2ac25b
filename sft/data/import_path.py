"""Builders, and other classes, of the user's own, named by import path: `my_data:MyBuilder`."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

from sft.errors import BadInput, nearest
from sft.models import without_torch

NOT_IMPORTABLE = "not importable: "
"""What `import_path` begins with if another process could not import the class."""


def build(group: str, path: str, args: Mapping[str, Any], base: type, common_config: Any) -> Any:
    """The builder `path` with the fields `args`.

    The module may lie in the current folder. `common_config` is passed to a builder that has such
    a field. `group` is the config group that names the builder (`dataset`, `evaluators`), for
    messages.

    Raises `BadInput` if there is no such class, if it is not a `base`, or if `args` are not its
    fields.
    """
    builder = load_builder(group, path, base)
    fields = {item.name: item for item in dataclasses.fields(builder) if item.init}
    has_common = fields.pop("common_config", None) is not None
    for name in args:
        if name not in fields:
            takes = f"; it takes {', '.join(fields)}" if fields else "; it takes none"
            raise BadInput(
                f"{group}.args.{name}: {path} has no such field{nearest(name, list(fields))}{takes}"
            )
    for name, item in fields.items():
        defaults = (item.default, item.default_factory)
        if name not in args and all(default is dataclasses.MISSING for default in defaults):
            raise BadInput(f"{group}.args.{name}: is missing; {path} has no default for it")
    values = dict(args) | ({"common_config": common_config} if has_common else {})
    try:
        return builder(**values)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{group}.args: {path} refuses them: {error}") from error


def load_builder(group: str, path: str, base: type) -> type[Any]:
    """The dataclass and subclass of `base` that `module:Name` names. Raises `BadInput`."""
    key = f"{group}.builder"
    found = load_class(key, path, base)
    if found.__dict__.get("__annotations__") and "__dataclass_fields__" not in found.__dict__:
        raise BadInput(f"{key}: {path} is not a dataclass; write @dataclass above it")
    return found


def load_class(key: str, path: str, base: type) -> type[Any]:
    """The subclass of `base` that `module:Name` names under `key`. Raises `BadInput`."""
    if path.startswith(NOT_IMPORTABLE):
        raise BadInput(
            f"{key}: {path.removeprefix(NOT_IMPORTABLE)} was defined in a script, a "
            "notebook or a function; move it to a module to run it again"
        )
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        mine = f"My{base.__name__.removeprefix('Base')}"
        raise BadInput(f"{key}: '{path}' is not of the form my_module:{mine}")
    if not module_name.startswith("sft."):
        without_torch.end()
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise BadInput(
                f"{key}: there is no module '{module_name}' in {here} or among the "
                "installed packages"
            ) from None
        raise BadInput(f"{key}: {module_name} cannot be imported: {error}") from error
    except Exception as error:
        raise BadInput(
            f"{key}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise BadInput(f"{key}: {_not_a_builder(path, module, name, found, base)}")
    return found


def _not_a_builder(path: str, module: Any, name: str, found: Any, base: type) -> str:
    if found is not None:
        return f"{path} is not a subclass of {base.__module__}.{base.__name__}"
    classes = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    return f"{module.__name__} has no {name}{nearest(name, classes)}"


def import_path(builder: Any) -> str:
    """`module:Name` of a class or function.

    `NOT_IMPORTABLE` stands before it if another process could not import it: it was made in a
    script, a notebook or a function. A run of such a builder is recorded, but cannot be reproduced.
    """
    name = getattr(builder, "__qualname__", type(builder).__qualname__)
    path = f"{builder.__module__}:{name}"
    module = sys.modules.get(builder.__module__)
    importable = builder.__module__ != "__main__" and getattr(module, name, None) is builder
    return path if importable else NOT_IMPORTABLE + path


def saved(builder: Any, beside: Collection[str] = ()) -> dict[str, Any]:
    """The keys `builder` and `args` that make `builder` again, by `build`.

    `args` are its own fields without those of `beside`. One that is no dataclass, or whose fields
    are no plain values, is named all the same and said to be not importable.
    """
    path = import_path(builder if hasattr(builder, "__qualname__") else type(builder))
    if dataclasses.is_dataclass(builder) and not isinstance(builder, type):
        args = own_fields(builder, beside)
        if is_plain(args):
            return {"builder": path, "args": args}
    return {"builder": NOT_IMPORTABLE + path.removeprefix(NOT_IMPORTABLE), "args": {}}


def own_fields(builder: Any, beside: Collection[str] = ()) -> dict[str, Any]:
    """The values of a builder's fields without `common_config` and those of `beside`."""
    return {
        item.name: getattr(builder, item.name)
        for item in dataclasses.fields(builder)
        if item.init and item.name != "common_config" and item.name not in beside
    }


def is_plain(value: Any) -> bool:
    """Whether a value comes out of YAML as it went in."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(is_plain(inner) for inner in value)
    return value is None or type(value) in (str, int, float, bool)
