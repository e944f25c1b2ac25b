"""A first look at local files of chats, before anything is imported, started or asked.

Most mistakes in data show in its first rows: a file that is not there, a column that is missing, a
line that is no JSON. Of a file that ends within them it is also known whether it has an answer to
train on, and enough for a batch and for what is held out. It takes no tokenizer, and no service.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

from sft.data import builders, hub
from sft.data.builders import FromConversationFileBuilder, HFChatBuilder, without_answers
from sft.data.mixing.builder import MixBuilder
from sft.data.mixing.named_sets import named
from sft.data.sources import ChatFiles
from sft.errors import BadInput
from sft.rendering.conversations import Conversation, carries_loss
from sft.tokens.cache import nothing_in
from sft.tokens.table import too_few
from sft.types import ChatDatasetBuilder, SupervisedDatasetBuilder

ROWS = 2000
"""Of each source that are looked at: a fraction of a second."""


def look(builder: SupervisedDatasetBuilder) -> None:
    """Raise `BadInput` for what `builder` would refuse in the first rows of its local files."""
    if isinstance(builder, ChatDatasetBuilder):
        for key, one in _within(builder):
            if source := _local(one):
                named(key, partial(_first, source))
    if source := _local(builder):
        rows = _first(source)
        of_ours = type(builder).__module__ == builders.__name__  # another may make more of a row
        if len(rows) < ROWS and isinstance(builder, ChatDatasetBuilder) and of_ours:
            _all_there_is(builder, source, rows)


def _first(source: ChatFiles) -> list[tuple[int, Conversation]]:
    """The first conversations, with their rows' numbers. Raises `BadInput`."""
    rows = []
    for number, found in itertools.islice(source.conversations(), ROWS):
        if isinstance(found, BadInput):
            raise found
        rows.append((number, found))
    if not rows:
        raise nothing_in(source)
    return rows


def _all_there_is(
    builder: ChatDatasetBuilder, source: ChatFiles, rows: list[tuple[int, Conversation]]
) -> None:
    """Refuse what is too little, whatever becomes of each row. Raises `BadInput`."""
    common = builder.common_config
    size = getattr(builder, "eval_size", 0) if getattr(builder, "eval_split", None) is None else 0
    if size >= len(rows):
        raise too_few(size, len(rows), len(rows))
    sequences = 0  # at most: one for each message that is trained
    for number, conversation in rows:
        if conversation.text is not None:
            sequences += 1
            continue
        try:
            sequences += sum(carries_loss(conversation.messages, common.train_on_what))
        except BadInput as error:
            if builder.on_lost == "leave_out":
                return
            raise BadInput(f"{source.where(number)}: {error}") from None
    if not sequences:
        raise without_answers(source.where(rows[0][0]), common.train_on_what)
    if common.batch_size > sequences:
        raise BadInput(
            f"batch_size: {common.batch_size} is more than the sequences that {len(rows)} "
            "conversations give; set a smaller batch_size"
        )


def _within(builder: ChatDatasetBuilder) -> Iterator[tuple[str, SupervisedDatasetBuilder]]:
    """The parts of a mixture and the further held-out sets, with their keys."""
    if isinstance(builder, MixBuilder):
        for name, part in sorted(builder.parts.items()):
            yield f"dataset.parts.{name}", part.builder
    for name, one in sorted(builder.eval_sets.items()):
        yield f"dataset.eval_sets.{name}", one.builder


def _local(builder: SupervisedDatasetBuilder) -> ChatFiles | None:
    """What is read without the library `datasets`; None if that has to be asked."""
    source = None
    if isinstance(builder, FromConversationFileBuilder):
        if not hub.is_saved(builder.path):
            source = builder.source()
    elif isinstance(builder, HFChatBuilder) and hub.is_local_file(builder.path):
        if builder.split == "train":  # a part of it is for `datasets` to read
            source = builder.source()
    return source if isinstance(source, ChatFiles) else None
