"""The two threads that do the service's slow work, so that the event loop never waits.

One thread owns the engine; the other one the disk, in the order of its jobs: a load that was asked
for after a save finds it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sft.local.engine_api import EngineError

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    def __init__(self) -> None:
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")

    async def compute(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the engine. Raises EngineError and nothing else."""
        return await _explained(self._engine, lambda: call(*args, **kwargs))

    def write(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Hands a job to the disk thread before it returns; the future is its result."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._disk, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Blocks until everything handed to `write` is on disk. Nothing may be handed in later."""
        self._disk.shutdown(wait=True)
        self._engine.shutdown(wait=False)


async def _explained(executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
    except EngineError:
        raise
    except Exception as error:  # a bug or a full memory: one request fails, the service lives on
        traceback.print_exc()
        message = f"internal error of the local service ({type(error).__name__}: {error})"
        raise EngineError(message, user=False) from error
