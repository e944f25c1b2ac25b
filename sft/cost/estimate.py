"""What a run will cost, by part, before anything is billed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from sft.cost.prices import Prices, dollars
from sft.cost.usage import Usage

NO_PRICE = "no published price known"


@dataclass(frozen=True)
class Estimate:
    """Tokens that a run will use, by part, and their prices.

    Training is exact where the data knows the lengths of its sequences. Evaluations are at most
    what is said: an answer is reckoned as long as it may be, and no prompt as found in the cache.
    """

    parts: Mapping[str, Usage]
    """`training`, `evaluations` (prompts) and `answers` (generated)."""
    prices: Prices
    unknown: tuple[str, ...] = ()
    """What is not in it, in words: data that is not counted, evaluators that say nothing."""

    @property
    def usage(self) -> Usage:
        return reduce(add, self.parts.values(), Usage())

    @property
    def missing(self) -> list[str]:
        """The kinds of tokens without a price."""
        return self.prices.missing(self.usage)

    @property
    def usd(self) -> float | None:
        """Of all that has a price; None if nothing has."""
        return self.prices.usd(self.usage) if self.prices else None

    def unpriced(self, *, billed: bool) -> list[str]:
        """The kinds of tokens that will be paid for at a price that nobody knows. Of a service
        that is not known to bill, only if prices of other kinds are given."""
        return self.missing if billed or self.prices else []

    def times(self, runs: int) -> Estimate:
        """Of so many runs."""
        return Estimate({n: u * runs for n, u in self.parts.items()}, self.prices, self.unknown)

    def sentence(self) -> str:
        """In one line: the sum, each part, and what is not in it."""
        if self.usd is None:
            return NO_PRICE
        each = ", ".join(
            f"{name} {dollars(self.prices.usd(usage))} ({_tokens(usage)})"
            for name, usage in self.parts.items()
            if usage != Usage()
        )
        lacks = [f"{' and '.join(self.missing)} tokens: {NO_PRICE}"] if self.missing else []
        without = "; ".join([*lacks, *self.unknown])
        whole = f"{'at least' if self.missing else 'about'} {dollars(self.usd)}: {each}"
        return whole + (f"; not in it: {without}" if without else "")

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        parts = {name: usage.to_json() for name, usage in self.parts.items()}
        return {"usd": self.usd, "parts": parts, "unknown": list(self.unknown)}


def _tokens(usage: Usage) -> str:
    """What of a part is billed.

    >>> _tokens(Usage(prefill=1200, sample=64))
    '1,200 prefill and 64 sample tokens'
    """
    kinds = [f"{n:,} {kind.replace('_', ' ')}" for kind, n in usage.to_json().items() if n]
    return f"{' and '.join(kinds)} tokens"
