"""Worker threads that compute packs side by side.

On a CPU each worker multiplies with its own few threads: packs are independent, so cores never
wait for each other inside a pack, and a pack's numbers cannot depend on what the other workers do.
A step of sampling has one pass, which reads all weights for a few rows: there all cores share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from sft.local.engine import memory

Item = TypeVar("Item")
Answer = TypeVar("Answer")
MAX_WORKERS = 8
MAX_KERNELS = 200  # of one worker: those of a pass of six pieces (`shared_passes`)
MAX_CALLS = 32  # of one worker


class Workers:
    """A pool of `count` workers of `threads` each; `map` answers in the order of its items."""

    def __init__(self, device: torch.device, threads: int | None = None):
        cores = threads or len(os.sched_getaffinity(0))
        self.count = min(cores, MAX_WORKERS) if device.type == "cpu" else 1
        self.threads = max(1, cores // self.count)
        if device.type == "cpu":
            memory.keep_freed()
            _keep_few_kernels(self.count)

        def start(threads: int) -> None:
            torch.get_num_threads()  # else a thread's first product takes the newest number of any
            torch.set_num_threads(threads)

        def pool(count: int, name: str, threads: int) -> ThreadPoolExecutor:
            return ThreadPoolExecutor(count, name, initializer=start, initargs=(threads,))

        self._pool = pool(self.count, "engine-worker", self.threads)
        self._beside = pool(1, "engine-beside", self.threads)
        self._together = pool(1, "engine-together", cores)

    def map(self, compute: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """Compute every item, in their order of start; yields answers in order as they come.

        An item starts only when fewer than twice `count` answers wait to be taken: what waits is
        bounded. Gradients are off. An exception is raised in the place of its answer.
        """
        waiting: list[Future[Answer]] = []
        left = iter(items)
        while True:
            for item in left:
                waiting.append(self._pool.submit(_without_gradients, compute, item))
                if len(waiting) >= 2 * self.count:
                    break
            if not waiting:
                return
            yield waiting.pop(0).result()

    def beside(self, compute: Callable[[Item], Answer], item: Item) -> Answer:
        """Compute one item at once, also while all workers are busy. With as many threads as one of
        them has: sums over a vector depend on their number."""
        return self._beside.submit(_without_gradients, compute, item).result()

    def together(self, compute: Callable[[Item], Answer], item: Item) -> Answer:
        """Compute one item by itself, its large products with all cores: see `one_thread`."""
        return self._together.submit(_without_gradients, compute, item).result()


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed here by one thread alone: small products, which take less time so.

    Attention also for its numbers: where the memory of a helping thread begins is left to chance,
    and in float32 MKL's products round by that.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _without_gradients(compute: Callable[[Item], Answer], item: Item) -> Answer:
    with torch.no_grad():
        return compute(item)


def _keep_few_kernels(workers: int) -> None:
    """Bound what oneDNN and torch keep of products of a shape seen before.

    Every length of piece has its own kernels in oneDNN's cache, and in torch's cache working memory
    as well, of about a megabyte each. Kernels are kept for the passes at work (with fewer, each
    would be made anew for every layer), working memory for what a step of sampling needs. The
    variables are read when the first product is made; a value that the user has set stands.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MAX_KERNELS * workers))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(MAX_CALLS))
