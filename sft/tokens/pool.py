"""Tokenising chunks of conversations in this process or, for large data, in several.

A worker process is started as `python -m sft.tokens.pool`. It is not forked, since this process may
hold threads and sockets, and not spawned by `multiprocessing`, which would import the main script
again. It reads chunk numbers from standard input, answers on standard output, and ends when its
input ends, hence with this process.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.errors import BadInput
from sft.models import without_torch
from sft.rendering.base import Renderer
from sft.stages.stages import Stage
from sft.tokens.chunks import Recipe, tokenise_chunk

PARALLEL_FROM = 12
"""Chunks from which on worker processes are worth the seconds that they take to start."""

MOST_PROCESSES = 4
"""Each takes 150 MB."""

BY_HAND = (
    "sft.tokens.pool: this is a worker process that tokenises what another process hands it; "
    "`python -m sft` starts it if the data is large"
)


def processes() -> int:
    """Processes to tokenise large data in: one a core, `MOST_PROCESSES` at most."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(MOST_PROCESSES, cores)


@dataclass
class Pool:
    """Tokenises chunks. The first ones wait until it is known whether there are many."""

    folder: Path
    recipe: Recipe
    renderer: Renderer
    processes: int
    now: Stage
    """Told how many conversations are tokenised."""
    sizes: list[int] = field(default_factory=list)
    """Conversations of each chunk that was put."""
    tokenised: list[int] = field(default_factory=list)
    """Those of each chunk that is tokenised."""
    waiting: list[int] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    workers: list[subprocess.Popen[str]] = field(default_factory=list)
    chunks: queue.Queue[int | None] = field(
        # Bounded: reading must not run far ahead of tokenising and fill the disk.
        default_factory=lambda: queue.Queue(maxsize=2 * PARALLEL_FROM)
    )
    error: BaseException | None = None

    def __enter__(self) -> Pool:
        return self

    def put(self, index: int, size: int) -> None:
        """Hand over chunk `index` of `size` conversations, whose file is written.

        Chunks come in order. Raises the error of an earlier one, and `GivenUp`.
        """
        self.sizes.append(size)
        if self.threads:
            self._put(index)
            return
        self.waiting.append(index)
        if len(self.waiting) >= PARALLEL_FROM and self.processes > 1:
            self.threads = [
                threading.Thread(target=self._serve, daemon=True) for _ in range(self.processes)
            ]
            for thread in self.threads:
                thread.start()
            for early in self.waiting:
                self._put(early)

    def finish(self) -> None:
        """Return once every chunk is tokenised. Raises the first error, and `GivenUp`."""
        self.now.reached(total=sum(self.sizes))
        if not self.threads:
            for index in self.waiting:
                self.now.reached()
                tokenise_chunk(self.folder, index, self.recipe, self.renderer)
                self._count(index)
            return
        for _ in self.threads:
            self._put(None)
        for thread in self.threads:
            while thread.is_alive():
                self.now.reached()
                thread.join(0.2)
        if self.error is not None:
            raise self.error

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def _put(self, item: int | None) -> None:
        while True:
            if self.error is not None:
                raise self.error
            self.now.reached()
            try:
                return self.chunks.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _serve(self) -> None:
        """Feed one worker process. An error is kept for the thread that puts."""
        try:
            worker = self._start()
            while (index := self.chunks.get()) is not None:
                _ask(worker, {"chunk": index})
                self._count(index)
            worker.communicate()  # ends its input, and waits
        except BaseException as error:
            self.error = self.error or error

    def _count(self, index: int) -> None:
        self.tokenised.append(self.sizes[index])
        self.now.done = sum(self.tokenised)

    def _start(self) -> subprocess.Popen[str]:
        # One thread each: the processes are the parallelism.
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        worker = subprocess.Popen(
            [sys.executable, "-m", "sft.tokens.pool"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.workers.append(worker)
        _ask(worker, {"folder": str(self.folder), "recipe": vars(self.recipe)})
        return worker


def _ask(worker: subprocess.Popen[str], message: dict[str, Any]) -> None:
    """Send a line to a worker and wait for its answer. Raises `BadInput` or `RuntimeError`."""
    assert worker.stdin and worker.stdout  # pipes, both
    try:
        worker.stdin.write(json.dumps(message) + "\n")
        worker.stdin.flush()
    except BrokenPipeError:
        pass
    answer = worker.stdout.readline()
    if not answer:
        raise RuntimeError(f"a tokenising process ended with code {worker.wait()}")
    if error := json.loads(answer).get("error"):
        raise BadInput(error)


def serve(folder: Path, recipe: Recipe, lines: Iterable[str], answer: Any) -> None:
    """Tokenise in a worker process: an answer once it is ready, then one to each line."""
    renderer = recipe.renderer()
    answer({})
    for line in lines:
        try:
            tokenise_chunk(folder, json.loads(line)["chunk"], recipe, renderer)
            answer({})
        except BadInput as error:
            answer({"error": str(error)})


def _task() -> tuple[Path, Recipe] | None:
    """What the first line of standard input says to do; None if this was started by hand."""
    if sys.stdin is None or sys.stdin.isatty() or sys.argv[1:]:
        return None
    try:
        task = json.loads(sys.stdin.readline())
        return Path(task["folder"]), Recipe(**task["recipe"])
    except (KeyError, TypeError, ValueError):
        return None


def _main() -> int:
    without_torch.begin()
    # Nothing that a library prints may be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        if (task := _task()) is None:
            print(BY_HAND, file=sys.stderr)
            return 2
        serve(*task, sys.stdin, answer)
        return 0
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)  # the process that asked has been interrupted too, or is gone


if __name__ == "__main__":
    sys.exit(_main())
