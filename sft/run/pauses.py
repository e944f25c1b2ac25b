"""The service's own word when it pauses a run: for capacity, or for its rate limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tinker


def follow(client: tinker.TrainingClient, tell: Callable[[str], None]) -> None:
    """Call `tell` on this event loop whenever the service pauses `client`'s run or lets it go on.

    The SDK logs a pause only once it has lasted a quarter of an hour, and offers no other way to
    hear of it than the observer that it keeps in a private field.
    """
    from tinker.lib.api_future_impl import QueueState, QueueStateObserver

    loop = asyncio.get_running_loop()

    class Observer(QueueStateObserver):
        state = QueueState.ACTIVE

        def on_queue_state_change(self, queue_state: QueueState, reason: str | None) -> None:
            if queue_state == self.state:
                return
            self.state = queue_state
            if queue_state == QueueState.ACTIVE:
                text = "the service goes on with this run"
            else:
                text = f"the service has paused this run: {reason or queue_state.value}"
            loop.call_soon_threadsafe(tell, text)

    private: Any = client
    private._queue_state_logger = Observer()
