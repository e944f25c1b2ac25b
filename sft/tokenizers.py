"""Tokenizers by the names that configs use: a Hub id, a folder, or the demo model."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sft.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def folder_or_name(name: str) -> str:
    """The folder of the demo model where it is meant, else `name` itself."""
    from sft import demo_model

    return str(demo_model.folder()) if name == demo_model.NAME else name


@functools.lru_cache(maxsize=16)
def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer called `name`, from a folder, the Hub's cache on this machine, or the Hub.

    No code of a repository is run. Raises `BadInput` where there is none to be had.
    """
    from transformers import AutoTokenizer

    source = folder_or_name(name)
    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        if Path(source).is_dir():
            raise BadInput(
                f"model.tokenizer: no tokenizer can be read from the folder {source}: "
                f"{_first_line(error)}"
            ) from error
    _check_hub(name)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"model.tokenizer: the Hub has no tokenizer '{name}' to give: {_first_line(error)}"
        ) from error


def _check_hub(name: str) -> None:
    """Fail at once without a network: the Hub's client would try for a minute."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname, port), timeout=5.0).close()
    except OSError as error:
        raise BadInput(
            f"model.tokenizer: '{name}' is neither a folder nor in the Hub's cache on this "
            f"machine, and the Hub cannot be reached ({error})"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
