"""Tokenising conversations in chunks, in this process or, for large data, in several.

A chunk is a file of JSON lines, `[number, messages]`, in a scratch folder; tokenised, it is an
Arrow file beside it. A worker process is started as `python -m sft.tokens.pool`. It is not forked,
since this process may hold threads and sockets, and not spawned by `multiprocessing`, which would
import the main script again. It reads chunk numbers from standard input, answers on standard
output, and ends when its input ends, hence with this process.
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
from typing import TYPE_CHECKING, Any

from sft import renderers
from sft.errors import BadInput
from sft.models import tokenizers
from sft.rendering.base import Messages, Rendered, Renderer

if TYPE_CHECKING:
    import pyarrow

CHUNK = 1024
"""Conversations a chunk, and a record batch of the result: what is in memory at once."""

PARALLEL_FROM = 12
"""Chunks from which on worker processes are worth the seconds that they take to start."""

MOST_PROCESSES = 4
"""Each takes 150 MB."""

BY_HAND = (
    "sft.tokens.pool: this is a worker process that tokenises what another process hands it; "
    "`python -m sft` starts it if the data is large"
)


@dataclass(frozen=True)
class Recipe:
    """How conversations are tokenised, as plain values."""

    model_name_for_tokenizer: str
    renderer_name: str | None
    chat_template_kwargs: dict[str, Any]
    max_length: int | None
    train_on_what: str
    where: str = "{}"
    """The place of a conversation, for error messages, around its number."""

    def renderer(self) -> Renderer:
        tokenizer = tokenizers.load_tokenizer(self.model_name_for_tokenizer)
        return renderers.get_renderer(self.renderer_name, tokenizer, self.chat_template_kwargs)


def schema() -> pyarrow.Schema:
    """The columns of a table of sequences. An empty row stands for one that was dropped."""
    import pyarrow as pa

    return pa.schema(
        [
            ("tokens", pa.list_(pa.int32())),
            ("trained", pa.list_(pa.bool_())),
            ("trained_tokens", pa.int32()),
            ("trained_bytes", pa.int32()),
            ("truncated", pa.bool_()),
            ("conversations", pa.int32()),  # begun with this row: 0 for a further part of one
        ]
    )


def chunk_file(folder: Path, index: int, suffix: str) -> Path:
    return folder / f"{index:06d}.{suffix}"


def tokenise_chunk(folder: Path, index: int, recipe: Recipe, renderer: Renderer) -> None:
    """Write the Arrow file of chunk `index` and delete its JSON lines. Raises `BadInput`."""
    import pyarrow as pa

    source = chunk_file(folder, index, "jsonl")
    numbers, conversations = zip(*map(json.loads, source.open(encoding="utf-8")), strict=True)
    rendered = _render(list(conversations), numbers, recipe, renderer)
    batch = _to_arrow(rendered, recipe.max_length)
    target = chunk_file(folder, index, "arrow")
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    source.unlink()


def _render(
    conversations: list[Messages], numbers: Iterable[int], recipe: Recipe, renderer: Renderer
) -> list[list[Rendered]]:
    try:
        return renderer.render_batch(conversations, recipe.train_on_what)
    except Exception as whole:
        # One of them cannot be rendered: a template may refuse what is sound as a conversation.
        for number, conversation in zip(numbers, conversations, strict=True):
            try:
                renderer.render(conversation, recipe.train_on_what)
            except Exception as error:
                where = recipe.where.format(number)
                raise BadInput(f"{where}: cannot be rendered: {_first_line(error)}") from whole
        raise


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _to_arrow(rendered: Iterable[list[Rendered]], max_length: int | None) -> pyarrow.RecordBatch:
    import numpy as np
    import pyarrow as pa

    tokens, masks, offsets = [], [], [0]
    facts: list[tuple[int, int, bool, int]] = []

    def add(sequence_tokens: Any, mask: Any, *row: Any) -> None:
        tokens.append(np.asarray(sequence_tokens, dtype=np.int32))
        masks.append(mask)
        offsets.append(offsets[-1] + len(mask))
        facts.append(row)

    nothing = np.zeros(0, dtype=bool)
    for sequences in rendered:
        first = 1
        for sequence in sequences:
            mask = np.asarray(sequence.trained[:max_length], dtype=bool)
            if trained := int(np.count_nonzero(mask[1:])):
                size = sequence.trained_bytes(max_length)
                cut = len(mask) < len(sequence.tokens)
                add(sequence.tokens[:max_length], mask, trained, size, cut, first)
            else:
                add((), nothing, 0, 0, False, first)
            first = 0
        if first:
            add((), nothing, 0, 0, False, first)
    bounds = pa.array(np.array(offsets, dtype=np.int32))
    columns = [
        pa.ListArray.from_arrays(bounds, pa.array(np.concatenate(tokens))),
        pa.ListArray.from_arrays(bounds, pa.array(np.concatenate(masks))),
        *(pa.array(column) for column in zip(*facts, strict=True)),
    ]
    types = schema()
    arrays = [column.cast(item.type) for column, item in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=types)


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

    def put(self, index: int) -> None:
        """Hand over chunk `index`, whose file is written. Raises the error of an earlier one."""
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
            if sys.stderr.isatty():  # it takes a while, and nothing else is shown yet
                where = self.recipe.where.format("").strip()
                print(f"tokenising {where} … (once: it is cached)", file=sys.stderr)
            for early in self.waiting:
                self._put(early)

    def finish(self) -> None:
        """Return once every chunk is tokenised. Raises the first error."""
        if not self.threads:
            for index in self.waiting:
                tokenise_chunk(self.folder, index, self.recipe, self.renderer)
            return
        for _ in self.threads:
            self._put(None)
        for thread in self.threads:
            thread.join()
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
            worker.communicate()  # ends its input, and waits
        except BaseException as error:
            self.error = self.error or error

    def _start(self) -> subprocess.Popen[str]:
        # One thread each: the processes are the parallelism.
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
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
    # transformers imports torch if it is there: 250 MB and seconds that no tokenizer needs.
    sys.modules["torch"] = None  # type: ignore[assignment]  # None: not there
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
