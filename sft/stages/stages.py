"""The stages of a command: what it does now, how far it is, and since when.

    with stage("tokenising faq", total=503) as now:
        for row in rows:
            now.reached(row)

The part that does the work says so here. Who shows it is known to the command alone (see
`sft/display/stages.py`); where nobody does, in a notebook or a trial, this costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from sft.stages import threads


@dataclass(eq=False)
class Stage:
    """Something that takes a while."""

    what: str
    total: int | None = None
    """How much there is to do; None: nobody knows."""
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def reached(self, done: int | None = None, total: int | None = None) -> None:
        """Say how far it is. Raises `GivenUp` if nobody wants it any more."""
        threads.check()
        self.done = self.done if done is None else done
        self.total = self.total if total is None else total


class Screen(Protocol):
    """Where stages are shown."""

    def hidden(self) -> AbstractContextManager[None]:
        """While inside, nothing is shown: others write there."""

    def close(self) -> None:
        """Show nothing more of what comes before the first step."""


@dataclass
class Stages:
    """Those of a command. Threads may add to them at any time."""

    screen: Screen | None = None
    preparing: Stage | None = None
    """What is shown while there is nothing else."""
    under_way: list[Stage] = field(default_factory=list)


_current: ContextVar[Stages | None] = ContextVar("stages", default=None)


def current() -> Stages | None:
    """The stages of the command that this code runs for."""
    return _current.get()


@contextmanager
def followed(stages: Stages) -> Iterator[None]:
    """While inside, also in threads and tasks that begin there, work is told to `stages`."""
    token = _current.set(stages)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def stage(what: str, total: int | None = None) -> Iterator[Stage]:
    """Inside, `what` is being done."""
    found, one = Stage(what, total), _current.get()
    if one is None:
        yield found
        return
    one.under_way.append(found)
    try:
        yield found
    finally:
        one.under_way.remove(found)


def preparing(what: str) -> None:
    """Say what is being done between the stages."""
    if (one := _current.get()) is not None:
        one.preparing = Stage(what)


def hidden() -> AbstractContextManager[None]:
    """While inside, nothing is shown: what is printed stands on a line of its own."""
    one = _current.get()
    return nullcontext() if one is None or one.screen is None else one.screen.hidden()


def say(text: str) -> None:
    """Print `text` on standard output, beside what is shown."""
    with hidden():
        print(text, flush=True)


def close() -> None:
    """There is something else to look at from now on: a banner and the steps."""
    if (one := _current.get()) is not None and one.screen is not None:
        one.screen.close()
