"""A first look at local files of chats, before anything is imported, started or asked.

Most mistakes in data show in its first rows: a file that is not there, a column that is missing, a
line that is no JSON. To find them takes no tokenizer, and no service.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

from sft.data import hub
from sft.data.builders import FromConversationFileBuilder, HFChatBuilder
from sft.data.mixing.builder import MixBuilder
from sft.data.mixing.named_sets import named
from sft.data.sources import ChatFiles
from sft.errors import BadInput
from sft.tokens.cache import nothing_in
from sft.types import ChatDatasetBuilder, SupervisedDatasetBuilder

ROWS = 2000
"""Of each source that are looked at: a fraction of a second."""


def look(builder: SupervisedDatasetBuilder) -> None:
    """Raise `BadInput` for what `builder` would refuse in the first rows of its local files."""
    if isinstance(builder, ChatDatasetBuilder):
        for key, one in _within(builder):
            named(key, partial(look, one))
    source = _local(builder)
    if source is None:
        return
    count = 0
    for _, found in itertools.islice(source.conversations(), ROWS):
        count += 1
        if isinstance(found, BadInput):
            raise found
    if not count:
        raise nothing_in(source)


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
