"""transformers, imported by one thread at a time.

It makes its modules when a name of theirs is first asked for. Two threads that ask at once, as two
runs of one process do, would have it fail: `cannot import name 'AutoTokenizer'`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

_LOCK = threading.Lock()


def auto_tokenizer() -> type[AutoTokenizer]:
    """`transformers.AutoTokenizer`."""
    with _LOCK:
        from transformers import AutoTokenizer
    return AutoTokenizer


def auto_config() -> type[AutoConfig]:
    """`transformers.AutoConfig`."""
    with _LOCK:
        from transformers import AutoConfig
    return AutoConfig


def auto_model() -> type[AutoModelForCausalLM]:
    """`transformers.AutoModelForCausalLM`, without its bars: what takes long is told here."""
    with _LOCK:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
    return AutoModelForCausalLM
