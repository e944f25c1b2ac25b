"""The keys of services that this process uses, by URL: local ones, and proxies of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_keys: dict[str, list[str]] = {}
"""Once a use: another service may come to the same address."""


@contextlib.contextmanager
def held(url: str, key: str) -> Iterator[None]:
    """Remember the key of `url` for as long as it is in use."""
    keys = _keys.setdefault(url, [])
    keys.append(key)
    try:
        yield
    finally:
        keys.remove(key)


def api_key(base_url: str | None) -> str | None:
    """The key of a service that this process started; None: the SDK finds its own."""
    return next(iter(_keys.get(base_url or "", [])), None)
