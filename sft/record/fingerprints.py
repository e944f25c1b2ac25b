"""Digests of what a run was made from: its batches, the code that built them, the model's files.

    >>> files(Path("models/mine"))                            # doctest: +SKIP
    {'config.json': '1f0c…', 'model.safetensors': '77ab…'}

They are recorded in the run directory. A reproduction sees by them what is still as it was.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sft.models.names import folder_or_name

if TYPE_CHECKING:
    import tinker

BLOCK, BLOCKS = 4096, 256
"""A file that is larger than all these blocks is not read whole but in that many blocks, evenly
spread. Weights that were trained or replaced differ in nearly all of them, and reading them whole
takes longer than the run of a small model."""


def sequences(data: Iterable[tinker.Datum]) -> str:
    """A digest of the tokens, targets and weights of `data`, in their order."""
    import numpy as np

    digest = hashlib.blake2b(digest_size=8)
    for datum in data:
        for chunk in datum.model_input.chunks:
            tokens = getattr(chunk, "tokens", None)
            part = repr(chunk).encode() if tokens is None else np.asarray(tokens, "<i8").tobytes()
            digest.update(len(part).to_bytes(8, "little") + part)
        for name in sorted(datum.loss_fn_inputs):
            values = datum.loss_fn_inputs[name].to_numpy()
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def code_of(*builders: object) -> dict[str, str]:
    """{module: digest} of the source of builders' classes; empty for the harness's own.

    With them come the loaded modules of their packages, those that lie beside them, and files of
    Python that a builder is given: the task of an evaluation.
    """
    names = {cls.__module__ for builder in builders for cls in type(builder).__mro__}
    names = {name for name in names if _is_foreign(name)}
    # At one moment: another thread may import something meanwhile.
    loaded = sys.modules.copy()
    names |= _beside(names, loaded)
    for builder in builders:
        package, inside, _ = type(builder).__module__.partition(".")
        if inside and _is_foreign(package):
            names |= {name for name in loaded if name.startswith(f"{package}.")}
    found = {}
    for name in sorted(names):
        file = getattr(loaded.get(name), "__file__", None)
        if file and file.endswith(".py") and Path(file).is_file():
            found[name] = _file(Path(file))
    for builder in builders:
        for value in getattr(builder, "__dict__", {}).values():
            file = value.partition("@")[0] if isinstance(value, str) else ""
            if file.endswith(".py") and Path(file).is_file():
                found[file] = _file(Path(file))
    return found


def _beside(names: set[str], loaded: dict[str, ModuleType]) -> set[str]:
    """The `loaded` modules in the folders of the modules `names`, which may import them."""
    files = {name: getattr(module, "__file__", None) for name, module in loaded.items()}
    folders = {os.path.dirname(file) for name, file in files.items() if file and name in names}
    if not folders:
        return set()
    return {
        name
        for name, file in files.items()
        if file and os.path.dirname(file) in folders and _is_foreign(name) and "." not in name
    }


def _is_foreign(module: str) -> bool:
    return module != "builtins" and module.partition(".")[0] != "sft"


def harness() -> str:
    """A digest of the source files that train a run: of the harness without `sweeps`, which is a
    link in a checkout and a folder in a wheel."""
    folder = Path(__file__).parent.parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        if place.parts[0] != "sweeps":
            digest.update(f"{place.as_posix()} {_file(path)}\n".encode())
    return digest.hexdigest()


def model_files(name: str) -> dict[str, str] | None:
    """{file: digest} of the model `name`; a large file is sampled.

    None if no folder of this machine holds it: then the service alone knows its weights.
    """
    folder = Path(folder_or_name(name)).expanduser()
    return files(folder) if folder.is_dir() else None


def files(folder: Path) -> dict[str, str]:
    """{name: digest} of the files that lie in `folder` itself."""
    return {path.name: _file(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _file(path: Path) -> str:
    """A digest of a file's size and content, or of `BLOCKS` blocks of it if it is larger."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as file:
        if size <= BLOCK * BLOCKS:
            digest.update(file.read())
        else:
            for index in range(BLOCKS):
                file.seek((size - BLOCK) * index // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
