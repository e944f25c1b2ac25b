"""Work in threads ends when nobody waits for it."""

import asyncio
import contextlib
import threading
import time

import pytest

from sft.stages import threads


class Slow:
    """A context that takes long to enter, unless it is given up."""

    def __init__(self, needed=None):
        self.needed = needed or threading.Event()
        self.began = threading.Event()
        self.said = []

    def __enter__(self):
        self.began.set()
        try:
            while not self.needed.is_set():
                threads.check()
                time.sleep(0.01)
        except threads.GivenUp:
            self.said.append("given up")
            raise
        self.said.append("entered")
        return "url"

    def __exit__(self, *exc):
        self.said.append("left")


def test_what_is_cancelled_has_ended_when_its_cancelling_has():
    slow = Slow()

    async def run():
        task = asyncio.create_task(threads.in_thread(slow.__enter__))
        await asyncio.to_thread(slow.began.wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return list(slow.said)

    assert asyncio.run(run()) == ["given up"]


def test_a_context_that_is_still_being_entered_is_given_up_with_its_stack():
    slow = Slow()

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            threads.entered(slow, stack)
            await asyncio.to_thread(slow.began.wait)
            raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        asyncio.run(run())
    assert slow.said == ["given up"]


def test_a_context_that_was_entered_is_left_also_if_nobody_asked_for_what_it_gives():
    slow = Slow()
    slow.needed.set()

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            threads.entered(slow, stack)
            await asyncio.to_thread(slow.began.wait)
            while not slow.said:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert slow.said == ["entered", "left"]


def test_what_fails_to_be_entered_and_is_not_asked_for_prints_nothing(capfd):
    class Failing(Slow):
        def __enter__(self):
            raise OSError("no")

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            threads.entered(Failing(), stack)

    asyncio.run(run())
    assert capfd.readouterr().err == ""
