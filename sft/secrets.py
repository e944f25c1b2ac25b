"""Secrets in URLs and texts: masked in all that is written, filled in again where they are used.

A run keeps `postgresql://me:***@host/db`. Whoever uses such a URL asks `fill` for the whole one,
which comes from this process's memory, the environment, or the user at a terminal. Two URLs that
differ in their secrets alone name one place.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

MASK = "***"

VARIABLES = {
    "tracking.uri": "MLFLOW_TRACKING_URI",
    "service.base_url": "TINKER_BASE_URL",
    "hydra.sweeper.storage": "OPTUNA_STORAGE",
}
"""Keys whose URL may hold a secret, and the variable that MLflow, the Tinker SDK and Optuna have
for it: there the whole URL is looked for."""

# Up to the last @ before the query, or else (a password with ? or # in it) up to the first @ at
# all. `http://host:5000/a@b` has a port there, and no password.
_PASSWORD = re.compile(
    r"(\w[\w+.-]*://[^/\s:@?#\"\[]*:)(?!\d+(?:[/?#\"\s]|$))(?:[^\s?#\"]*|[^\s\"@]*)@"
)
# A database's URL has a user before its first colon: what follows is a password, digits and / too.
_DATABASE_PASSWORD = re.compile(
    r"((?<![\w+.-])(?!https?:)\w[\w+.-]*://[^/\s:@?#\"\[]+:)[^\s\"]*@", re.IGNORECASE
)
# A token in the place of a user: longer than people's names.
_TOKEN = re.compile(r"(https?://)[^/\s:@?#\"\[]{16,}@", re.IGNORECASE)
_QUERY = re.compile(
    r"([?&;](?:[\w.-]*(?:password|passwd|passphrase|pwd|token|secret|api[_-]?key|access[_-]?key"
    r"|signature|credential)|key|auth|sig)=)[^&;\s\"'#]+",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"((?:api[_-]?key|access[_-]?key|token|password|passwd|secret)[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s\"',}]{6,}",
    re.IGNORECASE,
)
_KEY = re.compile(r"\b(?:tml|sk|hf|ghp)[-_][A-Za-z0-9_-]{8,}")
_SECRET_KEYS = frozenset(
    "password passwd secret api_key apikey access_key secret_key private_key access_token "
    "auth_token hf_token".split()
)

_known: dict[str, str] = {}
"""Whole URLs that this process was given, by what is left without their secrets."""


def mask_urls(text: str) -> str:
    """`text`, with the passwords and other secrets of the URLs in it replaced by `***`."""
    text = _PASSWORD.sub(rf"\1{MASK}@", _DATABASE_PASSWORD.sub(rf"\1{MASK}@", text))
    return _QUERY.sub(rf"\1{MASK}", _TOKEN.sub(rf"\1{MASK}@", text))


def mask(text: str) -> str:
    """`mask_urls`, and whatever else looks like a key or follows a name such as `api_key=`.

    For texts that are only read by people: it may take a harmless word for a key.
    """
    return _KEY.sub(MASK, _NAMED.sub(rf"\1{MASK}", mask_urls(text)))


def identity(url: str) -> str:
    """What `url` names, without its secrets, masked or not."""
    text = mask_urls(url).replace(f":{MASK}@", "@")
    hidden = rf"[\w.-]+={re.escape(MASK)}"
    return re.sub(rf"[?&;]{hidden}", "", re.sub(rf"{hidden}[&;]", "", text))


def fill(url: str, key: str) -> str:
    """The whole URL behind a masked one that the config has under `key`; any other as it is.

    Raises `BadInput` where the secret is nowhere to be had.
    """
    from sft.errors import BadInput

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
    from sft.errors import BadInput
    from sft.trust import TEXTS, leaves

    for key, value in leaves(saved):
        if not isinstance(value, str) or not value or key in VARIABLES or key.startswith(TEXTS):
            continue
        name = key.rpartition(".")[2].lower()
        if mask_urls(value) != value:
            raise BadInput(
                f"{key}: {value} holds a secret, which the run's files would show; leave it out "
                "and let what reads the data find it in the environment or in ~/.netrc"
            )
        if name in _SECRET_KEYS or (name == "token" and _KEY.fullmatch(value)):
            raise BadInput(
                f"{key}: is a secret, which the run's files would show; leave it out and let the "
                "builder read it from the environment"
            )


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The top keys of two saved configs under which they differ by more than secrets."""

    def plain(saved: Mapping[str, Any], name: str) -> Any:
        value = saved.get(name)
        if not isinstance(value, Mapping):
            return value
        urls = {key.partition(".")[2] for key in VARIABLES if key.startswith(f"{name}.")}
        return {k: identity(v) if k in urls and isinstance(v, str) else v for k, v in value.items()}

    return sorted(k for k in one.keys() | other.keys() if plain(one, k) != plain(other, k))
