"""Reading with the `datasets` library: a dataset of the Hub, a local folder or file."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.data.files.finding import is_pattern, named_as_file, place_of, walk
from sft.data.sources import ChatFiles, Rows
from sft.errors import BadInput
from sft.files import cache_folder, can_be_written
from sft.tokens.cache import Source

ENDLESS = 2**62
"""More rows than any file has."""


def source(path: str, name: str | None, split: str, layout: str, key: str = "split") -> Source:
    """The conversations of a split. Raises `BadInput`."""
    files = of_files(path, name, split, layout, key)
    return files or Rows(load(path, name, split, key=key), f"{path} ({split})", layout)


def of_files(
    path: str, name: str | None, split: str, layout: str, key: str, *, streaming: bool = False
) -> ChatFiles | None:
    """The rows of a split that lies in local files; None if it does not.

    Local files are read by `sft.data.files`, not by `datasets`, which takes words like NA for
    numbers or nothing, and wants the same columns in each of them. Which files of a folder are of
    which split, `datasets` says. `key` is the key under `dataset` that gave `split`, for messages.
    Raises `BadInput`, with `streaming` also for a part of a split.
    """
    if is_local_file(path):
        splits = {"train": ChatFiles(path, layout)}
        known = ": a file is the split 'train', perhaps a part of it, such as train[:10%]"
    else:
        splits = _splits_of_folder(path, name, split, layout, key)
        known = f"; it has {', '.join(sorted(splits))}"
    if not splits or split in splits:
        return splits.get(split)
    said = f"dataset.{key}: {path} has no split '{split}'"
    names = dict.fromkeys(re.findall(r"(?:^|\+)\s*([\w.-]+)", split))
    if not names.keys() <= splits.keys():
        raise BadInput(said + known)
    if streaming:
        raise BadInput(f"{said}: a stream is of one split, and whole")
    try:
        return _parts(split, {name: splits[name] for name in names})
    except (ValueError, AssertionError) as error:
        raise BadInput(f"{said}{known} ({str(error).splitlines()[0]})") from None


def saved_or_files(path: str, layout: str, on_bad_line: str) -> Source:
    """The conversations of files, or of a folder that `datasets` has saved. Raises `BadInput`."""
    folder = place_of(path)
    if os.path.isfile(folder / "dataset_dict.json"):
        splits = sorted(inside.name for inside in folder.iterdir() if inside.is_dir())
        raise BadInput(
            f"dataset.path: {path} holds the splits {', '.join(splits)}; name the one to train on, "
            f"such as dataset.path={folder / 'train'}"
        )
    if is_saved(path):
        return Rows(load(path, None, "train"), path, layout)
    return ChatFiles(path, layout, on_bad_line)


def is_saved(path: str) -> bool:
    """Whether `path` is a folder that `datasets` has saved, which alone reads it."""
    return os.path.isfile(place_of(path) / "state.json")


def is_local_file(path: str) -> bool:
    """Whether `path` is a file or a pattern of files."""
    return os.path.isfile(place_of(path)) or is_pattern(path)


def _splits_of_folder(
    path: str, name: str | None, split: str, layout: str, key: str
) -> dict[str, ChatFiles]:
    """The splits of a folder of plain files; none if only `datasets` can read it."""
    folder = place_of(path)
    if not os.path.isdir(folder) or os.path.exists(folder / "state.json"):
        return {}
    try:
        config = _builder(path, name).config
    except Exception as error:
        raise _bad_input(error, path, split, key) from error
    found: dict[str, list[Path]] = {
        str(one): list(map(Path, files)) for one, files in (config.data_files or {}).items()
    }
    read = {file for files in found.values() for file in files}
    if not all(named_as_file(str(file)) and file.is_file() for file in read):
        return {}
    others = [str(file.relative_to(folder)) for file in walk(folder) if file not in read]
    return {one: ChatFiles(path, layout, chosen=(files, others)) for one, files in found.items()}


def _parts(split: str, splits: dict[str, ChatFiles]) -> ChatFiles:
    """Parts such as `train[:10%]+test` of `splits`, in their order. Raises `ValueError`."""
    import datasets

    read = datasets.ReadInstruction.from_spec(split)
    # Beyond the end there are no rows, so only shares, numbers from the end and what follows
    # another split need it.
    needed = len(splits) > 1 or re.search(r"%|[\[:]\s*-", split)
    counts = {name: files.count() if needed else ENDLESS for name, files in splits.items()}
    starts = dict(zip(splits, itertools.accumulate(counts.values(), initial=0), strict=False))
    spans = tuple(
        (starts[part.splitname] + part.from_, starts[part.splitname] + part.to)
        for part in read.to_absolute(counts)
    )
    first = next(iter(splits.values()))
    if first.chosen is None:
        return replace(first, spans=spans)
    together = [file for files in splits.values() for file in files.files]
    return replace(first, chosen=(together, first.chosen[1]), spans=spans)


def load(
    path: str, name: str | None, split: str, *, streaming: bool = False, key: str = "split"
) -> Any:
    """A `datasets.Dataset`, or with `streaming` an `IterableDataset`. Raises `BadInput`."""
    import datasets

    folder = place_of(path)
    away = path.startswith(("/", ".", "~")) or path.count("/") > 1 or named_as_file(path)
    if away and not os.path.isdir(folder):
        raise BadInput(f"dataset.path: there is no file or folder {path}")
    try:
        if os.path.exists(folder / "state.json"):
            saved = datasets.load_from_disk(str(folder))
            return saved.to_iterable_dataset() if streaming else saved
        arguments = _arguments(path, name)
        if _builder(path, name).name == "csv":
            arguments["keep_default_na"] = False  # the words NA, None and null are words
        return datasets.load_dataset(**arguments, split=split, streaming=streaming)
    except Exception as error:
        raise _bad_input(error, path, split, key) from error


def _builder(path: str, name: str | None) -> Any:
    """What `datasets` reads `path` with. Raises whatever it does."""
    import datasets

    return datasets.load_dataset_builder(**_arguments(path, name))


def _arguments(path: str, name: str | None) -> dict[str, Any]:
    import datasets

    folder = place_of(path)
    arguments: dict[str, Any] = {"path": str(folder) if folder.is_dir() else path, "name": name}
    if not can_be_written(Path(datasets.config.HF_DATASETS_CACHE)):  # home, say
        arguments["cache_dir"] = str(cache_folder() / "datasets")
    return arguments


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
