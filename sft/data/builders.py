"""The built-in dataset builders: chat data by name, from a file, or from what `datasets` reads."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data import hub
from sft.data.layouts import LAYOUTS
from sft.data.sources import ChatFiles
from sft.errors import BadInput
from sft.keys import key
from sft.rendering.token_bytes import special_tokens
from sft.tokens.cache import Source, tokenised
from sft.tokens.chunks import NO_ANSWER, Recipe
from sft.tokens.table import TokenisedDataset, TokenTable, held_out
from sft.types import ChatDatasetBuilder, SupervisedDataset

if TYPE_CHECKING:
    import numpy as np

DEMO = Path(__file__).with_name("demo")

Built = tuple[SupervisedDataset, SupervisedDataset | None]


def eval_size(default: int) -> Any:
    return key(default, "conversations to hold out for evaluation; 0: none", minimum=0)


def split_seed() -> Any:
    return key(0, "which conversations are held out, whatever the run's seed", minimum=0)


def layout() -> Any:
    return key("auto", "columns of a row", choices=("auto", *LAYOUTS))


@dataclass
class ChatRowsBuilder(ChatDatasetBuilder):
    """Base class for chats that are read row by row: each row's fate can be shown."""

    def source(self) -> Any:
        """The rows to train on, in their own order: a `Source`, or a stream. Both have `rows()`.

        Raises `BadInput`.
        """
        raise NotImplementedError(type(self).__name__)

    def measured(self, cap: int | None) -> TokenisedDataset:
        """All conversations as held-out data, or `cap` of them. Raises `BadInput`."""
        whole = build_whole(self, self.source())
        return whole if cap is None else whole.at_most(cap)


@dataclass
class FaqBuilder(ChatRowsBuilder):
    """503 questions and answers about building, in English (CC-BY-4.0)."""

    eval_size: int = eval_size(48)
    split_seed: int = split_seed()

    def __call__(self) -> Built:
        return build(self, self.source(), self.eval_size, self.split_seed)

    def source(self) -> Source:
        spec = importlib.util.find_spec("zaragoza_construction_faq")
        folders = (spec and spec.submodule_search_locations) or []
        files = [Path(folder) / "data" / "faq-en-sharegpt.jsonl" for folder in folders]
        for path in files:
            if path.is_file():
                return ChatFiles(str(path), "conversations")
        raise BadInput(
            "dataset=faq: its package is not installed: run "
            "`pip install zaragoza-construction-faq==1.2.1`"
        )


@dataclass
class DemoBuilder(ChatRowsBuilder):
    """What a small model learns within a minute: 16 facts about a tool library that nobody knows.

    Each is asked in two ways. Held out is a third way of asking for it, so that an answer that is
    right was learnt, and is not a sentence that was read before.
    """

    def __call__(self) -> Built:
        return build(self, self.source(), 0, 0, ChatFiles(str(DEMO / "asked.jsonl"), "messages"))

    def source(self) -> Source:
        return ChatFiles(str(DEMO / "facts.jsonl"), "messages")


@dataclass
class FromConversationFileBuilder(ChatRowsBuilder):
    """A file of chats, a folder or a pattern of files: JSONL, JSON, CSV, TSV, Parquet or Arrow.

    What a file is, its content says and not its name. It may be packed with gzip, zstd, bzip2
    or xz.
    """

    path: str = key("???", "file of chats, a folder of them or a pattern such as 'data/*.jsonl'")
    eval_size: int = eval_size(0)
    split_seed: int = split_seed()
    layout: str = layout()
    on_bad_line: str = key(
        "refuse", "rows that are no conversation; skip: left out and counted",
        choices=("refuse", "skip"),
    )  # fmt: skip

    def __call__(self) -> Built:
        return build(self, self.source(), self.eval_size, self.split_seed)

    def source(self) -> Source:
        return hub.saved_or_files(self.path, self.layout, self.on_bad_line)


@dataclass
class HubData(ChatRowsBuilder):
    """What names a dataset of the Hub, a folder that `datasets` reads, or a local file."""

    path: str = key("???", "Hub id, a local folder, or a file or pattern as dataset=file has it")
    name: str | None = key(None, "configuration of the dataset, where it has several")
    split: str = key("train", "split to train on, such as train or train[:10%]")
    eval_split: str | None = key(None, "split to evaluate on; null: hold out of `split`")
    layout: str = layout()


@dataclass
class HFChatBuilder(HubData):
    """A dataset of the Hub, or a folder that `datasets` has saved; or a file or a folder of files,
    as `FromConversationFileBuilder` reads them."""

    eval_size: int = key(
        0, "conversations to hold out; with eval_split: of it, 0: all of it", minimum=0
    )
    split_seed: int = split_seed()

    def __call__(self) -> Built:
        train = self.source()
        if self.eval_split is None:
            return build(self, train, self.eval_size, self.split_seed)
        evaluation = hub.source(self.path, self.name, self.eval_split, self.layout, "eval_split")
        return build(self, train, self.eval_size, self.split_seed, evaluation)

    def source(self) -> Source:
        return hub.source(self.path, self.name, self.split, self.layout)


@dataclass
class NoRobotsBuilder(HFChatBuilder):
    """9,500 instructions and answers written by people (HuggingFaceH4/no_robots)."""

    path: str = key("HuggingFaceH4/no_robots", "Hub id, or a local copy of it")
    eval_split: str | None = key("test", "split to evaluate on; null: hold out of `split`")


@dataclass
class Tulu3Builder(HFChatBuilder):
    """939,000 conversations of the Tulu 3 mixture (allenai/tulu-3-sft-mixture)."""

    path: str = key("allenai/tulu-3-sft-mixture", "Hub id, or a local copy of it")
    eval_size: int = eval_size(500)


def build(
    builder: ChatDatasetBuilder,
    source: Source,
    eval_size: int,
    split_seed: int,
    evaluation: Source | None = None,
) -> Built:
    """Tokenise `source`, once, and cut training and held-out data from it.

    Held out are all of `evaluation`, or `eval_size` of it, or `eval_size` of `source`. A
    conversation that is held out, or is the same as one that is, is not trained on.

    Raises `BadInput` if the data is not sound, or too small for `eval_size` or for a batch.
    """
    import numpy as np

    table = _tokenised(builder, source)
    trained = np.ones(len(table.digests), dtype=bool)
    held: TokenisedDataset | None = None
    out = 0
    if evaluation is not None or eval_size:
        other = table if evaluation is None else _tokenised(builder, evaluation)
        chosen = np.ones(len(other.digests), dtype=bool)
        if eval_size:
            chosen = held_out(other.digests, eval_size, split_seed, whole=other is not table)
        held = _dataset(builder, other, chosen, "held-out")
        trained = ~np.isin(table.digests, other.digests[chosen])
        out = int((~trained).sum()) - (int(chosen.sum()) if other is table else 0)
    if not trained.any():
        raise BadInput(f"{source.name}: every conversation is held out; none is left to train on")
    train = _dataset(builder, table, trained, "training")
    train.statistics = dataclasses.replace(train.statistics, duplicates=out)
    batch_size, datums = builder.common_config.batch_size, train.statistics.datums
    if batch_size > datums:
        raise BadInput(
            f"batch_size: {batch_size} is more than the {datums} sequences that there are to "
            "train on; set a smaller batch_size"
        )
    return train, held


def build_whole(builder: ChatDatasetBuilder, source: Source) -> TokenisedDataset:
    """All of `source` as held-out data. Raises `BadInput`."""
    import numpy as np

    table = _tokenised(builder, source)
    return _dataset(builder, table, np.ones(len(table.digests), dtype=bool), "held-out")


def _tokenised(builder: ChatDatasetBuilder, source: Source) -> TokenTable:
    # Another process can make the renderer of a config, not what a subclass puts in its place.
    plain = all(
        getattr(type(builder), name) is getattr(ChatDatasetBuilder, name)
        for name in ("renderer", "tokenizer")
    )
    return tokenised(source, Recipe.of(builder), builder.renderer, parallel=plain)


def _dataset(
    builder: ChatDatasetBuilder, table: TokenTable, conversations: np.ndarray, what: str
) -> TokenisedDataset:
    common = builder.common_config
    dataset = TokenisedDataset(
        table,
        conversations,
        common.batch_size,
        common.reduction,
        special_tokens(builder.tokenizer),
    )
    if not dataset.statistics.datums:
        if not dataset.statistics.dropped and table.report.left_out:
            left_out = table.report.left_out
            if NO_ANSWER in left_out:
                raise without_answers(left_out[NO_ANSWER].first, common.train_on_what)
            first = next(left.first for left in left_out.values())
            raise BadInput(f"every row of the {what} data is left out; the first: {first}")
        raise BadInput(
            f"max_length: with {common.max_length} tokens, no {what} conversation keeps a token "
            "to train on; raise it, or see train_on_what"
        )
    return dataset


def without_answers(first: str, train_on_what: str) -> BadInput:
    """That no row has an answer, the `first` of which is there."""
    return BadInput(
        f"{first}: no row has an answer to train on (train_on_what={train_on_what}), neither this "
        "one nor any other"
    )
