"""Secrets of a config: left out of what is saved, filled in again where they are used.

The whole of a masked URL comes from this process's memory, the environment, `.pgpass`, or the user
at a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sft.errors import BadInput
from sft.secrets import KEY, MASK, VARIABLES, identity, mask_urls

_SECRET_KEYS = frozenset(
    "password passwd secret api_key apikey access_key secret_key private_key access_token "
    "auth_token hf_token".split()
)

_known: dict[str, str] = {}
"""Whole URLs that this process was given, by what is left without their secrets."""


TEXTS = ("evaluators.prompts", "evaluators.references", "run_name", "tracking.experiment")
"""Words for people and models: nothing is looked up by them."""


def fill(url: str, key: str) -> str:
    """The whole URL behind a masked one that the config has under `key`; any other as it is.

    Raises `BadInput` if the secret is nowhere to be had.
    """
    name = identity(url)
    if MASK not in url:
        if name != url:
            _known[name] = url
        return url
    whole = os.environ.get(VARIABLES[key], "")
    if name in _known:
        return _known[name]
    if MASK not in whole and identity(whole) == name:
        return whole
    if (filled := _from_libraries_variables(url, key)) is not None:
        return filled
    if url.count(MASK) == 1 and sys.stdin.isatty() and sys.stderr.isatty():
        from getpass import getpass

        _known[name] = url.replace(MASK, quote(getpass(f"{key}: *** of {url}: "), safe=""))
        return _known[name]
    others = {
        "http": " (or MLFLOW_TRACKING_PASSWORD)" if key == "tracking.uri" else "",
        "postgresql": " (or PGPASSWORD, or write a line of ~/.pgpass)",
    }
    dialect = urlsplit(url).scheme.partition("+")[0].replace("https", "http")
    raise BadInput(
        f"{key}: the secret in {url} is kept nowhere; set {VARIABLES[key]} to the whole URL"
        f"{others.get(dialect, '')}"
    )


def _from_libraries_variables(url: str, key: str) -> str | None:
    """`url` with what the library that opens it finds in the environment by itself."""
    parts = urlsplit(url)
    if f":{MASK}@" not in parts.netloc:
        return None
    if parts.scheme in ("http", "https") and key == "tracking.uri":
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or parts.username
        if (password := os.environ.get("MLFLOW_TRACKING_PASSWORD")) and user == parts.username:
            return url.replace(f":{MASK}@", f":{quote(password, safe='')}@")
    if parts.scheme.partition("+")[0] == "postgresql":
        file = os.environ.get("PGPASSFILE") or "~/.pgpass"
        if os.environ.get("PGPASSWORD") or Path(file).expanduser().is_file():
            return url.replace(f":{MASK}@", "@")  # the driver looks there where there is none
    return None


def hand_down(url: str, key: str) -> str:
    """`url` masked; the whole one goes to the environment, for this process and its children.

    For commands alone. A child's arguments and what it is handed in a file would show it.
    """
    masked = mask_urls(url)
    if masked != url:
        os.environ[VARIABLES[key]] = url
    return masked


def without_secrets(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config with its URLs masked. Raises `BadInput` for secrets elsewhere in it."""
    refuse(saved)
    saved = dict(saved)
    for key in VARIABLES:
        group, _, name = key.partition(".")
        if isinstance(values := saved.get(group), Mapping) and isinstance(values.get(name), str):
            saved[group] = {**values, name: mask_urls(values[name])}
    return saved


def refuse(saved: Mapping[str, Any]) -> None:
    """Raise `BadInput` for a secret under a key from which it could not be filled in again."""
    for key, value in leaves(saved):
        if not isinstance(value, str) or not value or key in VARIABLES or key.startswith(TEXTS):
            continue
        name = key.rpartition(".")[2].partition("[")[0].lower()
        if mask_urls(value) != value:
            raise BadInput(
                f"{key}: {value} holds a secret, which the run's files would show; leave it out "
                "and let what reads the data find it in the environment or in ~/.netrc"
            )
        if name in _SECRET_KEYS or (name == "token" and KEY.fullmatch(value)):
            raise BadInput(
                f"{key}: is a secret, which the run's files would show; leave it out and let the "
                "builder read it from the environment"
            )


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings and lists with its key, `a.b[0].c`; keys of mappings, too."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            dotted = f"{key}.{name}" if key else str(name)
            yield dotted, None
            yield from leaves(inner, dotted)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{key}[{number}]")
    else:
        yield key, value
