"""What glibc does with freed memory; the names are those of malloc.h. Nothing on other systems."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def keep_freed() -> None:
    """Have freed blocks up to 32 MB reused instead of handed back to the system.

    Activations come and go thousands of times in a pass; fresh pages for each cost a tenth of its
    time. Each worker keeps its own: if all shared one arena, they would wait for each other, for a
    twelfth of the time.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, 512 << 20)


def hand_back() -> None:
    """Hand what is free now back to the system all the same: after work that is not repeated."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    # None with musl, too
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
