"""Reading with the `datasets` library: a dataset of the Hub, a local folder or file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.data.files.finding import is_pattern, named_as_file
from sft.data.sources import ChatFiles, Rows
from sft.errors import BadInput
from sft.files import cache_folder, can_be_written
from sft.tokens.cache import Source

ENDLESS = 2**62
"""More rows than any file has."""


def source(path: str, name: str | None, split: str, layout: str, key: str = "split") -> Source:
    """The conversations of a split. Raises `BadInput`.

    Local files are read by `sft.data.files`, not by `datasets`, which takes words like NA for
    numbers or nothing. `key` is the key under `dataset` that gave `split`, for messages.
    """
    if is_local_file(path):
        files = ChatFiles(path, layout)
        return files if split == "train" else replace(files, spans=_spans(files, split, key))
    return Rows(load(path, name, split, key=key), f"{path} ({split})", layout)


def saved_or_files(path: str, layout: str, on_bad_line: str) -> Source:
    """The conversations of files, or of a folder that `datasets` has saved. Raises `BadInput`."""
    folder = Path(path).expanduser()
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(inside.name for inside in folder.iterdir() if inside.is_dir())
        raise BadInput(
            f"dataset.path: {path} holds the splits {', '.join(splits)}; name the one to train on, "
            f"such as dataset.path={folder / 'train'}"
        )
    if (folder / "state.json").is_file():
        return Rows(load(path, None, "train"), path, layout)
    return ChatFiles(path, layout, on_bad_line)


def is_local_file(path: str) -> bool:
    """Whether `path` is a file or a pattern of files."""
    return Path(path).expanduser().is_file() or is_pattern(path)


def _spans(files: ChatFiles, split: str, key: str) -> tuple[tuple[int, int], ...]:
    """The rows of a part such as `train[:10%]`, counted from 0. Raises `BadInput`."""
    import datasets

    try:
        read = datasets.ReadInstruction.from_spec(split)
        # Beyond the end there are no rows, so only shares and numbers from the end need it.
        count = files.count() if re.search(r"%|[\[:]\s*-", split) else ENDLESS
        return tuple((part.from_, part.to) for part in read.to_absolute({"train": count}))
    except (ValueError, AssertionError) as error:
        raise BadInput(
            f"dataset.{key}: {files.name} has no split '{split}': a file is the split 'train', "
            f"perhaps a part of it, such as train[:10%] ({str(error).splitlines()[0]})"
        ) from None


def load(
    path: str, name: str | None, split: str, *, streaming: bool = False, key: str = "split"
) -> Any:
    """A `datasets.Dataset`, or with `streaming` an `IterableDataset`. Raises `BadInput`."""
    import datasets

    file = Path(path).expanduser()
    arguments: dict[str, Any] = {"path": path, "name": name}
    if file.is_dir():
        arguments["path"] = str(file)
    elif path.startswith(("/", ".", "~")) or path.count("/") > 1 or named_as_file(path):
        raise BadInput(f"dataset.path: there is no file or folder {path}")
    try:
        if file.is_dir() and (file / "state.json").exists():
            return datasets.load_from_disk(str(file))
        if not can_be_written(Path(datasets.config.HF_DATASETS_CACHE)):  # home, say
            arguments["cache_dir"] = str(cache_folder() / "datasets")
        if datasets.load_dataset_builder(**arguments).name == "csv":
            arguments["keep_default_na"] = False  # the words NA, None and null are words
        return datasets.load_dataset(**arguments, split=split, streaming=streaming)
    except Exception as error:
        raise _bad_input(error, path, split, key) from error


def _bad_input(error: Exception, path: str, split: str, key: str) -> BadInput:
    """What went wrong in `datasets`, in a sentence."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = (str(error) or str(cause)).strip().splitlines()[0]
    if "Unknown split" in text or "Bad split" in text:
        return BadInput(f"dataset.{key}: {path} has no split '{split}': {text}")
    if "Config name is missing" in text or "BuilderConfig" in text:
        return BadInput(f"dataset.name: {' '.join(str(error).split())}")
    if type(error).__name__ in ("ConnectionError", "OfflineModeIsEnabled"):
        return BadInput(
            f"dataset.path: {path} is no local file or folder, and the Hub cannot be reached"
        )
    if type(error).__name__ == "DatasetNotFoundError":
        return BadInput(f"dataset.path: {text}")
    detail = (str(cause) or text).strip().splitlines()[0]
    return BadInput(f"dataset.path: {path} cannot be read: {detail}")
