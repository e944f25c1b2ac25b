"""What a run trains on: datasets that give batches, and the builders that make them.

The names and their meaning are those of the Tinker cookbook's supervised module. A dataset of
one's own needs `get_batch` and `__len__`; everything else is optional.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sft import renderers
from sft.keys import key
from sft.models import tokenizers
from sft.rendering.base import Renderer
from sft.rendering.control_tokens import CONTROL_TOKENS
from sft.rendering.conversations import TRAIN_ON_WHAT
from sft.rendering.report import Report

if TYPE_CHECKING:
    import tinker

ON_LOST = ("refuse", "leave_out", "train")


class SupervisedDataset:
    """Batches of training sequences, by index.

    A dataset may also have, and the harness then uses:
        statistics: `DataStatistics`, shown at the start of a run.
        digest: at most 36 characters that change when the data does. Without one, a reproduction
            compares the first batches before it trains, and every further one as it is trained.
        num_bytes(index): UTF-8 bytes of the trained text of batch `index`, for bits per byte. It
            is called right after `get_batch(index)`.
        num_tokens(index): tokens of the model inputs of batch `index`, told without making it: then
            the estimate of what a run costs is exact.
        conversations_of(index): a number for each sequence of batch `index` that is the same for
            those of one conversation: they are one example of a held-out set, not several.
        special_tokens: ids of the tokens that are no text. `num_bytes` counts no byte of them, and
            bits per byte leaves their nats out.
    """

    def get_batch(self, index: int) -> list[tinker.Datum]:
        """The sequences of batch `index` (0 to `len(self)` - 1) of the present epoch."""
        raise NotImplementedError

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        raise NotImplementedError

    def set_epoch(self, seed: int = 0) -> None:
        """Begin an epoch in the order that `seed` gives. By default the order never changes."""


@dataclass
class SupervisedDatasetBuilder:
    """A dataclass of plain values that says which data to train on, and builds it when called.

    The command line sets its fields: `dataset=custom dataset.builder=my_data:MyBuilder
    dataset.args.path=chats.txt`.
    """

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """The data to train on, and the data held out to evaluate on or None."""
        raise NotImplementedError


@dataclass
class EvalSet:
    """A further set of conversations to measure, each under `eval/NAME/nll`."""

    builder: SupervisedDatasetBuilder
    """Says which. Its `common_config` is that of the data that is trained on."""
    cap: int | None = key(None, "conversations to measure at most; null: all", minimum=1)
    train_on_what: str | None = key(
        None,
        "messages that are measured; null: as the run's train_on_what",
        choices=TRAIN_ON_WHAT,
    )


@dataclass
class ChatDatasetBuilderCommonConfig:
    """What all chat data has in common: how a conversation becomes sequences, and batches."""

    model_name_for_tokenizer: str
    """Hub id or folder of the tokenizer, or the demo model's name."""
    renderer_name: str | None = None
    """None: the tokenizer's own chat template."""
    batch_size: int = 8
    """Sequences a batch; the last one of an epoch may hold fewer."""
    max_length: int | None = 1024
    """Tokens of the longest sequence; longer ones are cut. None: no limit."""
    train_on_what: str = "all_assistant_messages"
    """The messages that carry loss."""
    reduction: str = "mean"
    """`mean`: a sequence's weights sum to 1; `none`: each trained token's weight is 1."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Handed to the chat template, such as `{"enable_thinking": False}`."""
    date: str | None = None
    """The day that a chat template may write, as `2026-11-30`; None: today."""
    seed: int = 0
    """The run's seed. The held-out set does not depend on it: runs of several seeds are measured
    on the same one. A builder's `split_seed` picks another."""


@dataclass
class ChatDatasetBuilder(SupervisedDatasetBuilder):
    """Base class for chat data: adds `tokenizer` and `renderer`.

    A subclass may give its `common_config` as a class attribute instead of an argument.
    """

    common_config: ChatDatasetBuilderCommonConfig = field(  # __post_init__ leaves no None
        default=None,  # type: ignore[assignment]
        kw_only=True,
    )
    on_lost: str = key(
        "refuse",
        "rows with words or tool calls that the chat template does not write; train: as it is",
        choices=ON_LOST,
        kw_only=True,
    )
    control_tokens: str = key(
        "as_text",
        "control tokens that stand in a message, such as a typed end of turn",
        choices=CONTROL_TOKENS,
        kw_only=True,
    )

    eval_sets: dict[str, EvalSet] = key(
        {},
        "further held-out sets by name, each {path: …} or {kind: …}; measured as eval/NAME/nll",
        kw_only=True,
    )

    def __post_init__(self) -> None:
        if self.common_config is None:
            given = type(self).common_config
            if given is None:
                raise TypeError(f"{type(self).__name__} needs a common_config")
            self.common_config = copy.deepcopy(given)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of `common_config.model_name_for_tokenizer` (a transformers one)."""
        return tokenizers.load_tokenizer(self.common_config.model_name_for_tokenizer)

    @property
    def renderer(self) -> Renderer:
        """What turns a conversation into tokens. Raises `BadInput` if the model has none."""
        common = self.common_config
        return renderers.get_renderer(
            common.renderer_name,
            self.tokenizer,
            common.chat_template_kwargs,
            control_tokens=self.control_tokens,
            lost_words=self.on_lost == "train",
            date=common.date,
        )


@dataclass(frozen=True)
class DataStatistics:
    """What a dataset counts of itself, truncation applied."""

    conversations: int
    datums: int
    """Training sequences: a conversation can take several, or none."""
    dropped: int
    """Sequences left out because no trained token was left within `max_length`."""
    truncated: int
    """Sequences cut at `max_length` (and kept)."""
    tokens: int
    trained_tokens: int
    trained_bytes: int
    """UTF-8 bytes of the trained text, without special tokens."""
    duplicates: int = 0
    """Conversations left out of training because the held-out set has the same one."""
    report: Report = field(default_factory=Report)
    """What the whole source holds beside its sequences: what is not used, left out or changed."""
