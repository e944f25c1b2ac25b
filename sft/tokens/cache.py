"""Tokenised conversations on disk: made once, shared by every run of the same data, memory-mapped.

An entry is a folder `tokens/KEY` in the cache (`$SFT_CACHE`, else `$XDG_CACHE_HOME/sft`, else
`~/.cache/sft`, else a private temporary folder). KEY is a digest of the data, the renderer's
fingerprint, `max_length` and `train_on_what`. What only chooses among the sequences or scales their
weights (the held-out split, batches, `reduction`) is not in it. An entry is complete or not there:
it is made in a scratch folder under a lock, and renamed. One that has not been used for
`UNUSED_DAYS` is deleted when another is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sft.errors import BadInput
from sft.files import cache_folder, make_once
from sft.rendering.base import Renderer
from sft.rendering.conversations import Conversation
from sft.rendering.report import Report
from sft.stages.stages import stage
from sft.tokens.chunks import (
    ALL_TRAINED,
    BUT_THE_FIRST,
    CHUNK,
    Recipe,
    chunk_file,
    read_report,
    schema,
)
from sft.tokens.digests import ENCODER, as_text, digest
from sft.tokens.pool import Pool, processes
from sft.tokens.table import TokenTable

FORMAT = 5
"""Version of the files of an entry, and of the way to tokenise. Count it up if either changes."""

UNUSED_DAYS = 30

NO_CONVERSATION = "holds no conversation"
HALF_A_PAIR = "holds half of a surrogate pair, which is not text"


class Source(Protocol):
    """Conversations that can be read more than once, in the same order."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def key(self) -> str:
        """Changes when the conversations do. Cheap: it does not look at every one of them."""
        ...

    def where(self, number: int) -> str:
        """The place of a conversation, for error messages."""
        ...

    def conversations(self) -> Iterator[tuple[int, Conversation | BadInput]]:
        """Each row's number with its conversation, or with what is wrong with the row.

        Raises `BadInput` if nothing more can be read.
        """
        ...

    def report(self) -> Report:
        """What was found and left out, once all conversations have been read."""
        ...


def tokenised(
    source: Source, recipe: Recipe, renderer: Renderer, *, parallel: bool = True
) -> TokenTable:
    """The sequences of `source`, from the cache, tokenising them first if need be.

    `renderer` is what `recipe` makes. Without `parallel` it may be any other: all data is then
    tokenised in this process.

    Safe to call from several processes and threads at once: one tokenises, the others wait.

    Raises `BadInput` if a conversation is not sound, or the cache cannot be written.
    """
    entry = cache_folder() / "tokens" / _key(source, recipe, renderer)
    try:
        if (table := _open(entry)) is None:
            entry.parent.mkdir(parents=True, exist_ok=True)
            _delete_unused(entry.parent)
            make_once(entry, lambda folder: _make(folder, source, recipe, renderer, parallel))
            table = _open(entry)
        if table is None:
            raise OSError(f"{entry.name} was written and cannot be read")
        return table
    except OSError as error:
        raise BadInput(
            f"the token cache {entry.parent} cannot be used: {error.strerror or error}; "
            "set SFT_CACHE to a folder with space"
        ) from error


def _key(source: Source, recipe: Recipe, renderer: Renderer) -> str:
    parts = [
        FORMAT,
        source.key(),
        renderer.fingerprint(),
        recipe.max_length,
        recipe.train_on_what,
        recipe.on_lost,  # what one setting leaves out, another refuses
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _open(entry: Path) -> TokenTable | None:
    """The table in `entry`; None if there is none. One that cannot be read is deleted."""
    import pyarrow

    try:
        os.utime(entry)
        return TokenTable.open(entry)
    except FileNotFoundError:
        return None
    except pyarrow.ArrowInvalid:  # torn: the machine went down before it was on disk
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _delete_unused(folder: Path) -> None:
    """Delete what nobody has touched for long."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _make(folder: Path, source: Source, recipe: Recipe, renderer: Renderer, parallel: bool) -> None:
    """Write `tokens.arrow`, `conversations.arrow` and `report.json` into `folder`."""
    recipe = replace(recipe, source=source.name)
    digests: list[Any] = []
    with (
        stage(f"tokenising {Path(source.name).name} (once: it is cached)") as now,
        Pool(folder, recipe, renderer, processes() if parallel else 1, now) as pool,
    ):
        chunks = 0
        for chunk in _chunks(source):
            digests.append(_write_chunk(chunk_file(folder, chunks, "jsonl"), chunk, source))
            pool.put(chunks, len(chunk))
            chunks += 1
        if not chunks:
            raise nothing_in(source)
        pool.finish()
    report = source.report()
    for index in range(chunks):
        report.add(read_report(folder, index))
    if report.notes.pop(BUT_THE_FIRST, None):
        report.found = report.found.replace(ALL_TRAINED, BUT_THE_FIRST)
    _join(folder, chunks)
    _write_digests(folder / "conversations.arrow", digests)
    (folder / "report.json").write_text(json.dumps(report.to_json()), encoding="utf-8")


def nothing_in(source: Source) -> BadInput:
    """That a source which was read to its end holds no conversation, as an error to raise."""
    left = "; ".join(found.first for found in source.report().left_out.values())
    return BadInput(f"{source.name}: {NO_CONVERSATION}{left and f' ({left})'}")


def _chunks(source: Source) -> Iterator[list[tuple[int, Conversation]]]:
    chunk: list[tuple[int, Conversation]] = []
    for number, conversation in source.conversations():
        if isinstance(conversation, BadInput):
            raise conversation
        chunk.append((number, conversation))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write_chunk(path: Path, chunk: list[tuple[int, Conversation]], source: Source) -> Any:
    """Write a chunk's conversations; returns a digest of each, uint64.

    The digest is of the conversation alone: two rows that differ in an id have the same one.
    """
    import numpy as np

    digests = np.empty(len(chunk), dtype=np.uint64)
    with open(path, "wb") as file:
        for index, (number, conversation) in enumerate(chunk):
            try:
                text = as_text(conversation)
            except UnicodeEncodeError:
                raise BadInput(f"{source.where(number)}: {HALF_A_PAIR}") from None
            digests[index] = digest(text)
            notes = ENCODER.encode(conversation.notes).encode("utf-8")
            place = ENCODER.encode(source.where(number)).encode("utf-8", "replace")
            file.write(b"[%b,%b,%b]\n" % (place, text, notes))
    return digests


def _join(folder: Path, chunks: int) -> None:
    """Copy the chunks, in order, into one file that can be mapped."""
    import pyarrow as pa

    with (
        pa.OSFile(str(folder / "tokens.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, schema()) as writer,
    ):
        for index in range(chunks):
            path = chunk_file(folder, index, "arrow")
            with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    writer.write_batch(batch)
            path.unlink()


def _write_digests(path: Path, digests: list[Any]) -> None:
    import numpy as np
    import pyarrow as pa

    batch = pa.record_batch({"digest": pa.array(np.concatenate(digests))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
