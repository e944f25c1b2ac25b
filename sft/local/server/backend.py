"""The engine and the store, each behind a thread of its own: the event loop never waits for them.

The disk's thread keeps the order of its jobs: a load that was asked for after a save finds it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sft.local.engine_api import Engine, EngineError
from sft.local.server.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Backend:
    """What computes and what stores. Training and sampling take turns with the engine: each holds
    `busy` for a cycle or a batch."""

    def __init__(self, engine: Engine, store: Store):
        self.engine = engine
        self.store = store
        self.busy = asyncio.Lock()
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._disk_thread = ThreadPoolExecutor(1, thread_name_prefix="disk")

    async def compute(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the engine on its thread. Raises `EngineError` and nothing else."""
        return await _explained(self._engine_thread, lambda: call(*args, **kwargs))

    def on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Hands a job to the disk thread before it returns; the future is its result."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._disk_thread, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Blocks until all that was handed to the disk's thread is done. Nothing may come later."""
        self._disk_thread.shutdown(wait=True)
        self._engine_thread.shutdown(wait=False)


async def _explained(executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
    except EngineError:
        raise
    except Exception as error:  # a bug or a full memory: one request fails, the service lives on
        traceback.print_exc()
        message = f"internal error of the local service ({type(error).__name__}: {error})"
        raise EngineError(message, user=False) from error
