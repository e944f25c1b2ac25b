"""Secrets in URLs and texts: masked in all that is written.

A run keeps `postgresql://me:***@host/db`; what uses such a URL asks `sft.config.secrets.fill` for
the whole one. Two URLs that differ in nothing but their secrets name one place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

VARIABLES = {
    "tracking.uri": "MLFLOW_TRACKING_URI",
    "service.base_url": "TINKER_BASE_URL",
    "hydra.sweeper.storage": "OPTUNA_STORAGE",
}
"""Keys whose URL may hold a secret, and the variable of MLflow, the Tinker SDK or Optuna that is
looked at for the whole URL."""

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
KEY = re.compile(r"\b(?:tml|sk|hf|ghp)[-_][A-Za-z0-9_-]{8,}")


def mask_urls(text: str) -> str:
    """`text`, with the passwords and other secrets of the URLs in it replaced by `***`."""
    text = _PASSWORD.sub(rf"\1{MASK}@", _DATABASE_PASSWORD.sub(rf"\1{MASK}@", text))
    return _QUERY.sub(rf"\1{MASK}", _TOKEN.sub(rf"\1{MASK}@", text))


def mask(text: str) -> str:
    """`mask_urls`, and masks what looks like a key or follows a name such as `api_key=`.

    For texts that only people read: it may take a harmless word for a key.
    """
    return KEY.sub(MASK, _NAMED.sub(rf"\1{MASK}", mask_urls(text)))


def identity(url: str) -> str:
    """What `url` names, without its secrets, masked or not."""
    text = mask_urls(url).replace(f":{MASK}@", "@")
    hidden = rf"[\w.-]+={re.escape(MASK)}"
    return re.sub(rf"[?&;]{hidden}", "", re.sub(rf"{hidden}[&;]", "", text))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The top keys of two saved configs under which they differ by more than secrets."""

    def plain(saved: Mapping[str, Any], name: str) -> Any:
        value = saved.get(name)
        if not isinstance(value, Mapping):
            return value
        urls = {key.partition(".")[2] for key in VARIABLES if key.startswith(f"{name}.")}
        return {k: identity(v) if k in urls and isinstance(v, str) else v for k, v in value.items()}

    return sorted(k for k in one.keys() | other.keys() if plain(one, k) != plain(other, k))
