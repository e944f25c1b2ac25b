"""What the service says of a paused run reaches the user at once, and once."""

import asyncio
from types import SimpleNamespace

from tinker.lib.api_future_impl import QueueState

from sft.run import pauses


def test_a_pause_and_its_end_are_each_told_once():
    told = []

    async def go():
        client = SimpleNamespace()
        pauses.follow(client, told.append)
        observer = client._queue_state_logger
        for state, reason in [
            (QueueState.ACTIVE, None),
            (QueueState.PAUSED_CAPACITY, "short of machines"),
            (QueueState.PAUSED_CAPACITY, "short of machines"),
            (QueueState.ACTIVE, None),
        ]:
            observer.on_queue_state_change(state, reason)
        await asyncio.sleep(0)

    asyncio.run(go())
    assert told == [
        "the service has paused this run: short of machines",
        "the service goes on with this run",
    ]


def test_the_sdk_keeps_its_observer_where_it_is_looked_for():
    import inspect

    from tinker.lib.public_interfaces import training_client

    source = inspect.getsource(training_client)
    assert "queue_state_observer=self._queue_state_logger" in source
