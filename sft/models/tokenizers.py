"""Tokenizers by the names that configs use: a Hub id, a folder, or the demo model."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sft.errors import BadInput
from sft.models.importing import auto_tokenizer
from sft.models.names import folder_or_name
from sft.stages.stages import stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@functools.lru_cache(maxsize=16)
def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer called `name`, from a folder, the Hub's cache on this machine, or the Hub.

    No code of a repository is run. Raises `BadInput` if there is none.
    """
    with stage("loading the tokenizer"):
        return _load(name)


def _load(name: str) -> PreTrainedTokenizerBase:
    source = folder_or_name(name)
    if Path(source).is_dir():
        return _read(source, f"no tokenizer can be read from the folder {source}")
    if name.startswith(("/", "./", "../", "~")):
        raise BadInput(f"model.tokenizer: there is no folder {name}")
    try:
        return _read(source, "not in the cache", local_files_only=True)
    except BadInput as error:
        if reason := why_no_hub():
            raise BadInput(
                f"model.tokenizer: '{name}' is neither a folder nor in the Hub's cache on this "
                f"machine, and the Hub cannot be reached ({reason})"
            ) from error
    return _read(source, f"the Hub has no tokenizer '{name}' to give")


def _read(source: str, failure: str, **options: bool) -> PreTrainedTokenizerBase:
    try:
        # False, not unset: unset, transformers asks on the terminal.
        return auto_tokenizer().from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # the libraries raise all sorts on a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"model.tokenizer: {failure}: {reason}") from error


def why_no_hub() -> str | None:
    """Why the Hub cannot be reached, found at once; None if it can.

    Without a network the Hub's client would try for a minute.
    """
    from urllib.request import getproxies  # 20 ms that `--help` need not pay

    from huggingface_hub import constants

    scheme = urlsplit(constants.ENDPOINT).scheme
    address = urlsplit(getproxies().get(scheme) or constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname, port), timeout=2.0).close()
    except OSError as error:
        return str(error)
    return None
