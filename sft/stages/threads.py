"""Work in a thread that ends when nobody waits for it any more.

A thread cannot be ended from outside, and a process ends only after its threads. So work that may
take long asks by `check` (or `Stage.reached`) whether it is still wanted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_unwanted: ContextVar[threading.Event | None] = ContextVar("unwanted", default=None)


class GivenUp(Exception):
    """The result of this work is no longer waited for."""


def check() -> None:
    """Raise `GivenUp` if whoever began this work in a thread wants it no more."""
    event = _unwanted.get()
    if event is not None and event.is_set():
        raise GivenUp


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """What `function(*arguments)` returns or raises, computed in a thread.

    If this is cancelled, the work is told and its end awaited: nothing goes on in the background.
    """
    work, unwanted = _begun(function, *arguments)
    try:
        return await asyncio.shield(work)
    finally:
        await _end(work, unwanted)


def entered(manager: AbstractContextManager[T], stack: AsyncExitStack) -> asyncio.Future[T]:
    """What `manager` will give: it is entered in a thread, and left in one by `stack`.

    If `stack` ends before it is there, entering is given up.
    """
    work, unwanted = _begun(manager.__enter__)

    async def leave(*exc: object) -> bool | None:
        await _end(work, unwanted)
        if work.exception() is not None:
            return None
        return await asyncio.to_thread(manager.__exit__, *exc)  # type: ignore[arg-type]

    stack.push_async_exit(leave)
    given = asyncio.shield(work)
    given.add_done_callback(_seen)  # also if nobody awaits it
    return given


def _begun(
    function: Callable[..., T], *arguments: object
) -> tuple[asyncio.Task[T], threading.Event]:
    unwanted = threading.Event()
    token = _unwanted.set(unwanted)
    try:
        return asyncio.create_task(asyncio.to_thread(function, *arguments)), unwanted
    finally:
        _unwanted.reset(token)


async def _end(work: asyncio.Task[T], unwanted: threading.Event) -> None:
    """Return once the work has ended, in whatever way."""
    unwanted.set()
    await asyncio.wait([work])
    _seen(work)


def _seen(done: asyncio.Future[T]) -> None:
    """asyncio prints the traceback of an error that nobody has asked for."""
    if not done.cancelled():
        done.exception()
