"""A saved config that comes from elsewhere: what it may not do until the user says `--trust`.

A config is data: reading it runs nothing. Acting on it may: an import path runs its module, a
service URL is sent the user's key, a path is read or written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.config import data
from sft.config.evaluators import named
from sft.config.schema import DEFAULT_URI, ServiceSettings
from sft.config.secrets import TEXTS, leaves
from sft.data.files.finding import has_wildcard, named_as_file
from sft.data.import_path import import_path
from sft.errors import BadInput
from sft.evaluators import BUILDERS
from sft.secrets import identity
from sft.tracking.store import absolute

if TYPE_CHECKING:
    from sft.past.find import Found

TRUST = "let a config from elsewhere import code, and name services, stores and paths"
"""What `--trust` does."""
_PATH = re.compile(r"^(?:[/~.\\]|[A-Za-z]:[\\/])|(?:^|[/\\])\.\.(?:[/\\]|$)")
_URL = re.compile(r"^\w[\w+.-]*:/")
_SPLIT = re.compile(r"\.(?:eval_)?split$")
"""Keys that name a part of the data, such as train[:10%], and no place."""


def saved_config(
    found: Found, trust: bool = False, fetched: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The saved config of `found`, checked for what it may do. Raises `BadInput`.

    `fetched` are the places, by key, of data that comes from the run's own store: they are put in
    for those that the config names, and need no trust.
    """
    saved, places = found.saved(), dict(fetched or {})
    for key, place in places.items():
        _put(saved, key, place)
    if not found.is_own and not trust:
        check_untrusted(saved, found.source, found.uri, places)
    return saved


def _put(saved: dict[str, Any], key: str, value: str) -> None:
    *groups, name = re.findall(r"[^.\[\]]+", key)
    node: Any = saved
    for group in groups:
        node = node[int(group)] if isinstance(node, list) else node[group]
    node[name] = value


def check_untrusted(
    saved: Mapping[str, Any],
    source: str,
    store: str | None = None,
    fetched: Mapping[str, str] | None = None,
) -> None:
    """Raise `BadInput` if the config from `source` needs the user's trust.

    It may not hold code or references, import anything, name a service, a tracking store other
    than `store` (where the user found it) and the default, another tracker, or a path of this
    machine, but for the values of `fetched`, which the harness itself has put under these keys.
    """
    reasons = list(_reasons(saved, store, fetched or {}))
    if reasons:
        raise BadInput(
            f"{source} was not written by a run directory of this machine, and "
            f"{'; '.join(reasons[:5])}; read it, and add --trust if you trust who wrote it"
        )


def _reasons(
    saved: Mapping[str, Any], store: str | None, fetched: Mapping[str, str]
) -> Iterator[str]:
    for key, values in data.named(saved):
        if "builder" in values or values.get("kind") == "custom":
            yield f"{key}.builder would import {values.get('builder')!r}"
    ours = {import_path(builder) for builder in BUILDERS.values()}
    for key, path, args in named(saved):
        if path not in ours:
            yield f"{key}.builder would import {path!r}"
        elif "task" in args:
            yield f"{key}.args.task would run the code of {args['task']!r}"
    if hooks := saved.get("hooks"):
        yield f"hooks would import {hooks!r}"
    tracking = saved.get("tracking")
    if isinstance(tracking, Mapping) and tracking.get("also"):
        yield f"tracking.also would send the run to {tracking['also']!r}"
    allowed = {
        "service.root": {ServiceSettings().root},
        "service.base_url": set(),
        "tracking.uri": {DEFAULT_URI} | ({identity(store)} if store else set()),
    }
    for key, value in leaves(saved):
        if re.search(r"(?:^|\.)_\w+_(?:\.|$)", key):
            yield f"{key} would name code"
        if not isinstance(value, str):
            continue
        if key in allowed:
            if allowed[key].isdisjoint({value, identity(value), absolute(value)}):
                yield f"{key} is {value!r}"
        elif "${" in value:
            yield f"{key} holds a reference, {value!r}"
        elif fetched.get(key) == value:
            continue
        elif not key.startswith(TEXTS) and (
            _reaches(value) or (has_wildcard(value) and not _SPLIT.search(key))
        ):
            yield f"{key} names a place, {value!r}"


def _reaches(value: str) -> bool:
    """Whether a text can lead to a file or a host: a path, a URL, or a name that exists here."""
    if value.startswith("tinker://"):
        return False
    if _PATH.search(value) or _URL.match(value) or named_as_file(value):
        return True
    try:
        return bool(value) and Path(value).exists()
    except (OSError, ValueError):
        return False
