"""A service that ticks like the hosted one and computes nothing, to see whether ticks are missed.

The real HTTP, queues and scheduler around an engine of constants. Training happens at fixed times;
sampling and named saves take a given time, beside it. As a process of its own:

    python -m tests.tick_service --tick 0.5 --delay 0.5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sft.local.core import Core
from sft.local.futures import Futures, Reply
from sft.local.store import Store
from tests.local.stub import KEY, MODEL, StubEngine, serving


class TickEngine(StubEngine):
    """Remembers for each model at which ticks it stepped; `core` is set once it is made."""

    core: Core

    def __init__(self, model: str):
        super().__init__(model)
        self.ticks: dict[str, list[int]] = defaultdict(list)

    def step(self, model_id: str) -> dict[str, float]:
        self.ticks[model_id].append(self.core.scheduler.cycle)
        return super().step(model_id)


class SlowFutures(Futures):
    """Results of some kinds arrive `delay` seconds after they are there."""

    KINDS = ("sample", "save_weights", "save_weights_for_sampler")

    def __init__(self, delay: float):
        super().__init__()
        self._delay = delay

    def resolve(self, request_id: str, reply: Reply) -> None:
        future = self._futures.get(request_id)
        if (
            future is not None
            and future.kind in self.KINDS
            and b"sampling_session" not in reply.body
        ):
            loop = asyncio.get_running_loop()
            loop.call_later(self._delay, super().resolve, request_id, reply)
        else:
            super().resolve(request_id, reply)


@dataclass(frozen=True)
class TickService:
    url: str
    key: str
    engine: TickEngine

    def used(self, model_id: str | None = None) -> int:
        """Steps of a model (by default of the only one)."""
        return len(self._ticks(model_id))

    def missed(self, model_id: str | None = None) -> int:
        """Ticks between a model's first and last step at which it did not step."""
        ticks = self._ticks(model_id)
        return ticks[-1] - ticks[0] + 1 - len(ticks)

    def _ticks(self, model_id: str | None) -> list[int]:
        if model_id is None:
            (model_id,) = self.engine.ticks
        return self.engine.ticks[model_id]


@contextlib.contextmanager
def running(
    root: Path | None = None, *, tick: float = 0.5, delay: float = 0.5, model: str = MODEL
) -> Iterator[TickService]:
    """A tick service in a thread of this process; `model` is the name it serves."""
    with contextlib.ExitStack() as stack:
        root = root or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = TickEngine(model)

        def make_core() -> Core:
            engine.core = Core(engine, Store(root), tick=tick, futures=SlowFutures(delay))
            return engine.core

        url, _ = stack.enter_context(serving(make_core, root))
        yield TickService(url, KEY, engine)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tick_service", description=__doc__)
    parser.add_argument("--tick", type=float, default=0.5, help="seconds (%(default)s)")
    parser.add_argument("--delay", type=float, default=0.5, help="of samples and saves, seconds")
    parser.add_argument("--model", default=MODEL, help="name to serve (%(default)s)")
    options = parser.parse_args()
    with running(tick=options.tick, delay=options.delay, model=options.model) as service:
        print(f"export TINKER_BASE_URL={service.url}\nexport TINKER_API_KEY={service.key}")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        for model_id in service.engine.ticks:
            used, missed = service.used(model_id), service.missed(model_id)
            print(f"{model_id}: {used} ticks used, {missed} missed")


if __name__ == "__main__":
    main()
