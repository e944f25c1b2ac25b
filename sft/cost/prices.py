"""Prices: USD per million tokens, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.cost.usage import KINDS, Usage
from sft.errors import BadInput
from sft.files import read_yaml

FILE = (Path(__file__).parents[1] / "conf" / "prices.yaml").resolve()
MODELS_URL = "https://tinker-docs.thinkingmachines.ai/tinker/models.json"
"""Where the provider publishes its models with their prices, as one JSON list."""
SECONDS = 5.0
"""That the provider's list may take."""
OWN = "prices.* of the config"


@dataclass(frozen=True)
class Prices:
    """USD per million tokens, by kind; None where none is known."""

    train: float | None = None
    prefill: float | None = None
    cached_prefill: float | None = None
    sample: float | None = None
    source: str = ""
    """Where they are from, with the day on which they were read."""

    def __bool__(self) -> bool:
        return any(self.values().values())

    def values(self) -> dict[str, float | None]:
        """By kind."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def saved(self) -> dict[str, float | str | None]:
        """As the saved config holds them."""
        return {**self.values(), "source": self.source or None}

    def rate(self, kind: str) -> float | None:
        """Of a kind; a cached prompt costs what a prompt does unless its price is known."""
        own: float | None = getattr(self, kind)
        return self.prefill if kind == "cached_prefill" and own is None else own

    def missing(self, usage: Usage) -> list[str]:
        """The kinds that `usage` has tokens of and that have no price."""
        return [kind for kind in KINDS if getattr(usage, kind) and self.rate(kind) is None]

    def usd(self, usage: Usage) -> float:
        """What `usage` costs; what has no price costs nothing here (see `missing`).

        >>> Prices(train=2.0, prefill=1.0).usd(Usage(train=500_000, prefill=1_000_000))
        2.0
        """
        return sum(getattr(usage, kind) * (self.rate(kind) or 0.0) for kind in KINDS) / 1e6


def in_use(own: Mapping[str, Any], model: str, *, hosted: bool) -> Prices:
    """The prices of a run: those that the config gives, with their `source`, and on hosted Tinker
    the published ones of `model` for what is left. Elsewhere nothing is known but the former."""
    given = {kind: own[kind] for kind in KINDS if own.get(kind) is not None}
    there = published(model) if hosted else Prices()
    further = {k: v for k, v in there.values().items() if v is not None and k not in given}
    sources = [own.get("source") or OWN] * bool(given) + [there.source] * bool(further)
    return Prices(**further, **given, source=", else ".join(sources))


def published(model: str) -> Prices:
    """What conf/prices.yaml says of `model`; nothing if it is not there."""
    listed = read_yaml(FILE)
    found = listed["models"].get(model)
    if found is None:
        return Prices()
    values = {kind: found.get(kind) for kind in KINDS}
    return Prices(**values, source=f"{listed['source']} (read {found['read']})")


def of_today(model: str, url: str = MODELS_URL) -> Prices:
    """What the provider's own list says of `model` now. Raises `BadInput` if it cannot be had."""
    import time

    import httpx

    try:
        answer = httpx.get(url, timeout=SECONDS, follow_redirects=True)
        answer.raise_for_status()
        rows = {row["tinker_id"]: row for row in answer.json()}
    except (httpx.HTTPError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(
            f"cost.refresh_prices: {url} gives no list of models ({error}); leave it out to go by "
            "conf/prices.yaml"
        ) from error
    if model not in rows:
        return Prices()
    values = {kind: _dollars(rows[model].get(kind)) for kind in KINDS}
    return Prices(**values, source=f"{url} (read {time.strftime('%Y-%m-%d')})")


def _dollars(value: Any) -> float | None:
    """A price as the list writes it.

    >>> _dollars("$1.87"), _dollars(0.5), _dollars("on request")
    (1.87, 0.5, None)
    """
    try:
        return float(str(value).strip().removeprefix("$").replace(",", ""))
    except ValueError:
        return None


def amount(usd: float, unpriced: Sequence[str]) -> str:
    """What was spent, of which the kinds `unpriced` are no part.

    >>> amount(1.5, []), amount(1.5, ["train"])
    ('$1.50', 'at least $1.50')
    """
    return f"at least {dollars(usd)}" if unpriced else dollars(usd)


def dollars(usd: float) -> str:
    """An amount with as many digits as tell something.

    >>> dollars(12.3456), dollars(0.0123), dollars(0.00004), dollars(0.0)
    ('$12.35', '$0.0123', '$0.00004', '$0.00')
    """
    if usd >= 1 or usd == 0:
        return f"${usd:,.2f}"
    if usd >= 0.0001:
        return f"${usd:.4f}"
    return f"${usd:.2g}" if usd >= 1e-4 else f"${usd:.7f}".rstrip("0")
