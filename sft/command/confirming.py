"""Asking before money is spent: above a limit, or where nobody knows how much, a run or a sweep
begins only if somebody says yes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sft.cost.prices import dollars
from sft.errors import BadInput

if TYPE_CHECKING:
    from sft.config.schema import Settings

YES = "go on without a question, whatever it costs"


def agreed(settings: Settings, yes: bool) -> Settings:
    """`settings` under which nobody is asked, if the user has said `--yes`."""
    cost = replace(settings.cost, confirm_above_usd=None)
    return replace(settings, cost=cost) if yes else settings


async def confirmed(
    usd: float | None, limit: float | None, what: str, unpriced: Sequence[str] = ()
) -> None:
    """Return if `usd` are within `limit` (both USD) and no tokens of the kinds `unpriced` will be
    paid for beside them, or if the user at the terminal says yes.

    Raises `BadInput` otherwise, and without a terminal at once.
    """
    if limit is None or not unpriced and (usd is None or usd <= limit):
        return
    if unpriced:
        question = (
            f"what this costs cannot be held against cost.confirm_above_usd={limit:g}, for there "
            f"is no price of {' and '.join(unpriced)} tokens "
            f"({' '.join(f'prices.{kind}=…' for kind in unpriced)}): {what}"
        )
    else:
        assert usd is not None  # by the first test
        more = f"more than cost.confirm_above_usd={limit:g}"
        question = f"this may cost {dollars(usd)}, {more}: {what}"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInput(
            f"{question}; nobody can be asked here: add --yes, or set cost.confirm_above_usd "
            "higher (null: never ask)"
        )
    print(f"{question}\nGo on? [y/N] ", end="", flush=True)
    if (await _line()).strip().lower() not in ("y", "yes"):
        raise BadInput("left before anything was begun or billed")


async def _line() -> str:
    """A line of standard input; signals are heeded meanwhile."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()
