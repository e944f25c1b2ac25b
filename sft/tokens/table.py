"""Tokenised sequences in a memory-mapped Arrow file, and the datasets that are cut from them."""

from __future__ import annotations

import bisect
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput
from sft.rendering.report import Report
from sft.tokens.datums import datum
from sft.types import DataStatistics, SupervisedDataset

if TYPE_CHECKING:
    import numpy as np
    import tinker


@dataclass(frozen=True)
class TokenTable:
    """Sequences of all conversations of a source, in its order. Only counts are in memory."""

    batches: list[Any]
    """Arrow record batches, mapped; see `sft.tokens.chunks.schema`."""
    starts: list[int]
    """The first row of each batch."""
    digests: np.ndarray
    """uint64 [conversations]: equal for conversations that are the same."""
    conversation: np.ndarray
    """int64 [rows]: the conversation that a row belongs to."""
    lengths: np.ndarray
    """int64 [rows]: tokens, 0 for a sequence that was dropped."""
    trained_tokens: np.ndarray
    trained_bytes: np.ndarray
    truncated: np.ndarray
    report: Report
    """What the source holds beside these sequences."""

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map the files in `folder`. Raises `OSError`."""
        import numpy as np
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.memory_map(str(folder / "tokens.arrow")))
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]

        def column(name: str) -> np.ndarray:
            parts = [batch[name].to_numpy(zero_copy_only=False) for batch in batches]
            return np.concatenate(parts)

        digests = pa.ipc.open_file(pa.memory_map(str(folder / "conversations.arrow"))).read_all()
        sizes = [batch.num_rows for batch in batches]
        return cls(
            batches=batches,
            starts=np.cumsum([0, *sizes[:-1]]).tolist(),
            digests=digests["digest"].to_numpy(),
            conversation=np.cumsum(column("conversations"), dtype=np.int64) - 1,
            lengths=np.concatenate([np.diff(batch["tokens"].offsets) for batch in batches]),
            trained_tokens=column("trained_tokens"),
            trained_bytes=column("trained_bytes"),
            truncated=column("truncated"),
            report=Report.from_json(json.loads((folder / "report.json").read_text("utf-8"))),
        )

    def sequence(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [T] (a view of the file) and the mask bool [T] of those that carry loss."""
        index = bisect.bisect_right(self.starts, row) - 1
        batch, offset = self.batches[index], row - self.starts[index]
        tokens = batch["tokens"][offset].values.to_numpy()
        return tokens, batch["trained"][offset].values.to_numpy(zero_copy_only=False)

    def select(self, conversations: np.ndarray) -> tuple[np.ndarray, DataStatistics, str]:
        """The rows of `conversations` (bool [conversations]) that are not dropped.

        Returns their indices, int64 [rows chosen], with statistics of those conversations and a
        digest of them in their order.
        """
        import numpy as np

        mine = conversations[self.conversation]
        kept = mine & (self.lengths > 0)
        statistics = DataStatistics(
            conversations=int(conversations.sum()),
            datums=int(kept.sum()),
            dropped=int((mine & ~kept & self.truncated).sum()),
            truncated=int(self.truncated[kept].sum()),
            tokens=int(self.lengths[kept].sum()),
            trained_tokens=int(self.trained_tokens[kept].sum()),
            trained_bytes=int(self.trained_bytes[kept].sum()),
            report=self.report,
        )
        chosen = np.ascontiguousarray(self.digests[conversations], dtype="<u8")
        digest = hashlib.blake2b(chosen.tobytes(), digest_size=16).hexdigest()
        return np.flatnonzero(kept), statistics, digest


CAP = 3241
"""The seed by which `at_most` chooses: another than the usual one of `held_out`."""


class TokenisedDataset(SupervisedDataset):
    """Batches of sequences that are tokenised already. The last batch may be short.

    Args:
        table: the sequences.
        conversations: bool [conversations of the table], those of this dataset.
        batch_size: sequences a batch.
        reduction: `mean` or `none`, see `sft.tokens.datums.datum`.
        special_tokens: ids of tokens that are no text.
    """

    def __init__(
        self,
        table: TokenTable,
        conversations: np.ndarray,
        batch_size: int,
        reduction: str,
        special_tokens: frozenset[int] = frozenset(),
    ):
        self.table = table
        self.batch_size = batch_size
        self.reduction = reduction
        self.special_tokens = special_tokens
        self._choose(conversations)

    def _choose(self, conversations: np.ndarray) -> None:
        self.conversations = conversations
        self.rows, self.statistics, self.digest = self.table.select(conversations)
        self.order = self.rows

    @property
    def conversation_digests(self) -> np.ndarray:
        """uint64 [conversations of this dataset]: equal for those that are the same."""
        digests: np.ndarray = self.table.digests[self.conversations]
        return digests

    def leave_out(self, digests: np.ndarray) -> None:
        """Take the conversations of these `digests` (uint64) out, before the first epoch.

        Raises `BadInput` if none is left.
        """
        import numpy as np

        kept = self.conversations & ~np.isin(self.table.digests, digests)
        if out := int(self.conversations.sum() - kept.sum()):
            before = self.statistics.duplicates
            self._choose(kept)
            if not len(self.rows):
                raise BadInput("every conversation is held out; none is left to train on")
            self.statistics = replace(self.statistics, duplicates=before + out)

    def at_most(self, count: int) -> TokenisedDataset:
        """`count` of the conversations, or all if there are no more.

        Which ones depends on their content alone, as with `held_out`.
        """
        import numpy as np

        mine = np.flatnonzero(self.conversations)
        if len(mine) <= count:
            return self
        chosen = np.zeros(len(self.conversations), dtype=bool)
        order = np.argsort(_mixed(self.table.digests[mine], CAP), kind="stable")
        chosen[mine[order[:count]]] = True
        made = TokenisedDataset(
            self.table, chosen, self.batch_size, self.reduction, self.special_tokens
        )
        made.statistics = replace(made.statistics, duplicates=self.statistics.duplicates)
        return made

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def set_epoch(self, seed: int = 0) -> None:
        self.order = self.rows[permutation(len(self.rows), seed)]

    def get_batch(self, index: int) -> list[tinker.Datum]:
        return [
            datum(*self.table.sequence(row), self.reduction) for row in self._rows(index).tolist()
        ]

    def num_tokens(self, index: int) -> int:
        """Tokens of the model inputs of batch `index`: a sequence without its last one."""
        rows = self._rows(index)
        return int(self.table.lengths[rows].sum()) - len(rows)

    def num_bytes(self, index: int) -> int:
        """UTF-8 bytes of the trained text of batch `index`."""
        return int(self.table.trained_bytes[self._rows(index)].sum())

    def conversations_of(self, index: int) -> list[int]:
        """The conversation that each sequence of batch `index` is of."""
        found: list[int] = self.table.conversation[self._rows(index)].tolist()
        return found

    def _rows(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self.order[index * self.batch_size : (index + 1) * self.batch_size]


def permutation(size: int, seed: int) -> np.ndarray:
    """An order of 0 … size - 1 that is the same for a seed (0 or more) on every machine."""
    import numpy as np

    # RandomState, whose stream NumPy promises never to change; a Generator's may.
    words = [(seed >> shift) & 0xFFFFFFFF for shift in range(0, max(seed.bit_length(), 1), 32)]
    return np.random.RandomState(words).permutation(size)


def held_out(digests: np.ndarray, size: int, split_seed: int, whole: bool = False) -> np.ndarray:
    """Choose `size` different conversations to hold out: a mask bool [conversations].

    Which ones depends on their content and `split_seed` alone, not on the order or the number of
    the others: adding rows to a file hardly changes its held-out set. `whole` allows all of them,
    for training data that is another split.

    Raises `BadInput` if there are not as many, or if nothing would be left to train on.
    """
    import numpy as np

    unique, first = np.unique(digests, return_index=True)
    if size > len(unique) - (not whole):
        raise too_few(size, len(digests), len(unique))
    mask = np.zeros(len(digests), dtype=bool)
    mask[first[np.argsort(_mixed(unique, split_seed), kind="stable")[:size]]] = True
    return mask


def too_few(size: int, there: int, different: int) -> BadInput:
    """That `size` conversations cannot be held out of those that are `there`."""
    return BadInput(
        f"dataset.eval_size: {size} conversations cannot be held out of {there}"
        + (f" ({different} different ones)" if different < there else "")
        + "; set a smaller number"
    )


def _mixed(values: np.ndarray, seed: int) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), on uint64."""
    import numpy as np

    z = values + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
