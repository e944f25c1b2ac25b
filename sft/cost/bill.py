"""The provider's own billing of some sessions, to be set beside what their runs have counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sft.cost.usage import Usage

if TYPE_CHECKING:
    import tinker

LONGEST = timedelta(days=14)
"""Of a window that the provider answers for."""


@dataclass
class Bill:
    """What the provider says of some sessions."""

    usage: Usage = field(default_factory=Usage)
    usd: float | None = None
    """Before credits; None if it prices none of it yet."""
    unpriced: int = 0
    """Entries of tokens without a price."""

    def add(self, event: Any) -> None:
        """Add an hour's entry (`tinker.types.BillingUsageEvent`); those of no tokens count not."""
        info = event.event_info
        kinds = {"training": "train", "sampling_sample": "sample"}
        kind = kinds.get(info.type)
        if info.type == "sampling_prefill":
            kind = "cached_prefill" if info.cached else "prefill"
        if kind is None:
            return
        self.usage += Usage(**{kind: info.token_count})
        if event.estimated_cost_usd is None:
            self.unpriced += 1
        else:
            self.usd = (self.usd or 0.0) + event.estimated_cost_usd


def windows(since: float, until: float) -> Iterator[tuple[datetime, datetime]]:
    """The whole hours, UTC, from `since` to `until` (seconds since 1970), two weeks at a time.

    >>> [(a.hour, b.hour) for a, b in windows(3600 * 5 + 10, 3600 * 6 + 10)]
    [(5, 7)]
    """
    begin = datetime.fromtimestamp(since // 3600 * 3600, UTC)
    end = datetime.fromtimestamp(math.ceil(until / 3600) * 3600, UTC)
    while begin < end:
        stop = min(begin + LONGEST, end)
        yield begin, stop
        begin = stop


def of_sessions(
    ask: Callable[[datetime, datetime], tinker.types.BillingUsageResponse],
    sessions: Iterable[str],
    since: float,
    until: float,
) -> Bill:
    """The bill of `sessions`, which `ask` is asked for; raises what it raises."""
    wanted, bill = set(sessions), Bill()
    for begin, end in windows(since, until):
        for event in ask(begin, end).data:
            if event.session_id in wanted:
                bill.add(event)
    return bill
