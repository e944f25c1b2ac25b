"""Names of a mixture's parts and of held-out sets, and what a builder that is named so is given."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from sft.data.files.finding import named_as_file
from sft.errors import BadInput
from sft.types import ChatDatasetBuilderCommonConfig, SupervisedDatasetBuilder

TAKEN = ("nll", "bpb", "exact_match", "all", "answers", "prompts")
"""What `eval/NAME/…` means already, or would seem to mean."""

Made = TypeVar("Made")


def check_names(names: Iterable[str], key: str, others: Iterable[str] = ()) -> None:
    """Raise `BadInput` for a name under `key` that cannot be a part of a metric's name."""
    seen = {name.casefold(): name for name in others}
    for name in map(str, names):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise BadInput(
                f"{key}: '{name}' is no name; expected a word of letters, digits, _ and - that "
                "begins with a letter"
            )
        if name.casefold() in TAKEN:
            raise BadInput(f"{key}.{name}: is the name of a metric or of answers; choose another")
        if (other := seen.get(name.casefold())) is not None:
            raise BadInput(
                f"{key}.{name}: both it and {other} would be measured as eval/{name}/nll; choose "
                "another name"
            )
        seen[name.casefold()] = name


def with_common(
    builder: SupervisedDatasetBuilder,
    common: ChatDatasetBuilderCommonConfig,
    train_on_what: str | None,
) -> SupervisedDatasetBuilder:
    """A copy of `builder` with the `common` config and what its messages are trained on.

    One without a common config stays as it is. Raises `BadInput` for `train_on_what` beside it.
    """
    if not hasattr(builder, "common_config"):
        if train_on_what is not None:
            raise BadInput(
                f"train_on_what: {type(builder).__name__} has no common_config that would hold it"
            )
        return builder
    builder = copy.copy(builder)
    builder.common_config = dataclasses.replace(
        common, train_on_what=train_on_what or common.train_on_what
    )
    return builder


def named(key: str, build: Callable[[], Made]) -> Made:
    """What `build` returns; its `BadInput` names the keys of the data under `key`."""
    try:
        return build()
    except BadInput as error:
        text = _with_whole_keys(str(error), key)
        raise BadInput(text if text.startswith(key) else f"{key}: {text}") from error


def _with_whole_keys(text: str, key: str) -> str:
    """`text`, which speaks of `dataset.path` and `dataset=KIND`, of the data under `key`."""

    def whole(word: re.Match[str]) -> str:
        if named_as_file(word[0]):  # a file that is called so
            return word[0]
        return f"{key}.kind=" if word[0] == "dataset=" else key + word[0].removeprefix("dataset")

    if text.startswith(("cap: ", "train_on_what: ")):
        return f"{key}.{text}"
    return re.sub(r"(?<![\w./-])dataset(?:=(?=\w)|\.[\w.]+)", whole, text)
