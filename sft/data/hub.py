"""Reading with the `datasets` library: a dataset of the Hub, a local folder or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.data.sources import JsonLines, Rows
from sft.errors import BadInput
from sft.files import cache_folder, can_be_written
from sft.tokens.cache import Source

READERS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Per suffix of a file (before .gz, .zst and the like) the reader of `datasets`."""


def source(path: str, name: str | None, split: str, layout: str, key: str = "split") -> Source:
    """The conversations of a split. Raises `BadInput`.

    `key` is the key under `dataset` that gave `split`, for messages.
    """
    file = Path(path).expanduser()
    if file.suffix == ".jsonl" and file.is_file() and split == "train":
        return JsonLines(file, layout)  # which can tell the line that is not sound
    return Rows(load(path, name, split, key=key), f"{path} ({split})", layout)


def load(
    path: str, name: str | None, split: str, *, streaming: bool = False, key: str = "split"
) -> Any:
    """A `datasets.Dataset`, or with `streaming` an `IterableDataset`. Raises `BadInput`."""
    import datasets

    file = Path(path).expanduser()
    arguments: dict[str, Any] = {"path": path, "name": name}
    if file.is_file():
        arguments = {"path": _reader(file), "name": name, "data_files": str(file)}
        if file.suffix == ".tsv":
            arguments["sep"] = "\t"
    elif file.is_dir():
        arguments["path"] = str(file)
    elif path.startswith(("/", ".", "~")) or path.count("/") > 1 or file.suffix in READERS:
        raise BadInput(f"dataset.path: there is no file or folder {path}")
    try:
        if file.is_dir() and (file / "state.json").exists():
            return datasets.load_from_disk(str(file))
        if not can_be_written(Path(datasets.config.HF_DATASETS_CACHE)):  # home, say
            arguments["cache_dir"] = str(cache_folder() / "datasets")
        return datasets.load_dataset(**arguments, split=split, streaming=streaming)
    except Exception as error:
        raise _bad_input(error, path, split, key) from error


def _reader(file: Path) -> str:
    for suffix in reversed(file.suffixes):
        if suffix in READERS:
            return READERS[suffix]
    raise BadInput(
        f"dataset.path: {file} is no file that can be read; expected {', '.join(READERS)}"
    )


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
