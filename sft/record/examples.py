"""`examples/STEP.parquet`: what the metrics of an evaluation are made of, example by example.

A metric with its examples can be compared with that of another run, and its uncertainty follows
from them. The first, the last and the best evaluation of a run are kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.errors import Sentence
from sft.files import replace_durably
from sft.record.metrics import read as read_rows

if TYPE_CHECKING:
    import numpy as np

FOLDER = "examples"
NUMBER = re.compile(r"[0-9]+").fullmatch
STDERR = "_stderr"
"""What the name of a metric's standard error ends with."""


class Unreadable(Sentence):
    """A file of examples that is damaged, or none: its place below the run directory."""


@dataclass(frozen=True)
class Examples:
    """The examples of a metric, which is the sum of `totals` divided by the sum of `weights`.

    For NLL these are the nats and the trained tokens of each held-out conversation; for a share of
    right answers they are 1 or 0, and 1.
    """

    totals: Sequence[float] | np.ndarray
    weights: Sequence[float] | np.ndarray
    digest: str
    """Equal for the same examples in the same order: only then two evaluations are of one set."""

    def __post_init__(self) -> None:
        if len(self.totals) != len(self.weights):
            raise ValueError(f"{len(self.totals)} totals and {len(self.weights)} weights")
        if not isinstance(self.digest, str):
            raise TypeError(f"the digest is {type(self.digest).__name__}; expected text")

    @property
    def value(self) -> float:
        """The metric; NaN without examples."""
        weight = float(sum(self.weights))
        return float(sum(self.totals)) / weight if weight else math.nan

    @property
    def is_share(self) -> bool:
        """Whether each example is right or wrong, and the metric the share of right ones."""
        import numpy as np

        return bool(np.isin(self.totals, (0, 1)).all() and np.equal(self.weights, 1).all())

    def standard_error(self) -> float:
        """How far the metric may be from that of all such examples; NaN for fewer than two, and
        where all are alike: four of four right answers say nothing of how far others may be.

        Of a ratio of two sums over n examples drawn at random (Cochran, Sampling Techniques,
        1977, chapter 6): with r the metric, sqrt(n / (n - 1) * sum((total - r * weight)^2)) /
        sum(weights).

        >>> Examples([1, 0, 1, 1], [1, 1, 1, 1], "").standard_error()
        0.25
        """
        import numpy as np

        totals = np.asarray(self.totals, dtype=np.float64)
        weights = np.asarray(self.weights, dtype=np.float64)
        count, weight = len(totals), weights.sum()
        if count < 2 or not weight:
            return math.nan
        rest = totals - totals.sum() / weight * weights
        if np.allclose(rest, 0, atol=1e-12 * np.abs(totals).max()):
            return math.nan
        return float(np.sqrt(count / (count - 1) * (rest @ rest)) / weight)


def digest_of(examples: Iterable[object]) -> str:
    """A digest of `examples`, each of plain values, in their order.

    >>> digest_of([["1 + 1?", "2"]]) == digest_of([["1 + 1?", "3"]])
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for example in examples:
        digest.update(json.dumps(example, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def share_of(right: Sequence[bool], digest: str) -> Examples:
    """The examples of a share of right answers."""
    return Examples([float(one) for one in right], [1.0] * len(right), digest)


def standard_errors(examples: Mapping[str, Examples]) -> dict[str, float]:
    """`METRIC_stderr` of each metric that has one."""
    found = {name + STDERR: one.standard_error() for name, one in examples.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


@dataclass
class Kept:
    """What the last values of a run's metrics are made of, as far as that is kept."""

    examples: dict[str, Examples] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Metrics whose file cannot be read, and that file."""


def last_examples(run_directory: Path, rows: Sequence[Mapping[str, Any]] | None = None) -> Kept:
    """What the last value of each metric is made of. Other files are not read.

    `rows` are those of metrics.jsonl, if they are not in the directory or not all of them count.
    """
    rows = read_rows(run_directory / "metrics.jsonl") if rows is None else rows
    last = {name: row["step"] for row in rows for name in row}
    folder, kept = ExamplesFolder(run_directory), Kept()
    for step in folder.steps():
        names = [name for name, of in last.items() if of == step]
        try:
            found = folder.read(step) if names else {}
        except Unreadable as error:
            kept.unreadable |= dict.fromkeys(names, str(error))
            continue
        kept.examples |= {name: found[name] for name in names if name in found}
    return kept


class ExamplesFolder:
    """The evaluations of one run directory whose examples are kept, a file each."""

    def __init__(self, run_directory: Path):
        self.path = run_directory / FOLDER
        self._lock = threading.Lock()

    def steps(self) -> list[int]:
        """The steps of the evaluations that are kept."""
        return sorted(int(file.stem) for file in self.path.glob("*.parquet") if NUMBER(file.stem))

    def read(self, step: int) -> dict[str, Examples]:
        """The examples of the evaluation at `step`, by metric; none if it is not kept.

        Raises `Unreadable`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = self._file(step)
        if not file.exists():
            return {}
        try:
            table = pq.read_table(file)
            digests = dict(json.loads(table.schema.metadata[b"digests"]))
            names = table["metric"].to_numpy(zero_copy_only=False)
            totals, weights = (table[name].to_numpy().astype(float) for name in ("total", "weight"))
            return {
                name: Examples(totals[names == name], weights[names == name], digest)
                for name, digest in digests.items()
            }
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
            raise Unreadable(f"{FOLDER}/{file.name}") from None

    def add(
        self, step: int, examples: Mapping[str, Examples], keep: Callable[[], Collection[int]]
    ) -> None:
        """Keep these of `step`, beside others of that step; of other steps those of `keep`, the
        first and the last."""
        with self._lock:
            self.path.mkdir(exist_ok=True)
            self._write(step, {**self.read(step), **examples})
            steps = self.steps()
            for other in set(steps) - {*keep(), steps[0], steps[-1]}:
                self._file(other).unlink()

    def truncate(self, step: int) -> None:
        """Forget what was measured beyond `step`: a run resumes there."""
        for other in self.steps():
            if other > step:
                self._file(other).unlink()

    def _file(self, step: int) -> Path:
        return self.path / f"{step:06d}.parquet"

    def _write(self, step: int, examples: Mapping[str, Examples]) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        counts = [len(one.totals) for one in examples.values()]
        digests = json.dumps({name: one.digest for name, one in examples.items()})
        columns = {
            "metric": np.repeat(list(examples), counts),
            "example": np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            "total": np.concatenate([np.asarray(e.totals, np.float64) for e in examples.values()]),
            "weight": np.concatenate(
                [np.asarray(e.weights, np.float64) for e in examples.values()]
            ),
        }
        table = pa.table(columns).replace_schema_metadata({"digests": digests})
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        replace_durably(self._file(step), content.getvalue())
