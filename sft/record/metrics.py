"""`metrics.jsonl`: one object a step, sorted by step, and the arithmetic behind the numbers.

Row s holds what was measured with s updates applied: the training metrics of step s and, if one was
made, the evaluation at s. A row keeps the timestamp of its first value.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.files import json_lines, replace_durably

if TYPE_CHECKING:
    import numpy as np
    import tinker

NOT_METRICS = ("step", "timestamp")
TRAINING_METRICS = (
    "train/nll",
    "train/bpb",
    "train/grad_norm",
    "lr",
    "epoch",
    "progress",
    "tokens/step",
    "tokens/total",
    "tokens/per_second",
    "time/step",
    "cost/usd",
)
"""What a step measures (`train/bpb` if the data knows its bytes, `train/grad_norm` if the service
says it, `cost/usd`, all that was asked for so far, if prices are known)."""
UNITS = {
    "train/nll": "nats per token",
    "eval/nll": "nats per token",
    "train/bpb": "bits per byte",
    "eval/bpb": "bits per byte",
    "train/grad_norm": "L2 norm",
    "time/step": "seconds",
    "tokens/per_second": "tokens per second",
    "tokens/step": "tokens",
    "tokens/total": "tokens",
    "cost/usd": "USD",
    "lr": "learning rate",
    "epoch": "epochs",
    "progress": "share of the run",
}
LESS_IS_BETTER = (
    *("nll", "bpb", "loss", "perplexity"),
    *("word_perplexity", "byte_perplexity", "bits_per_byte"),  # lm_eval's
)
MORE_IS_BETTER = ("accuracy", "exact_match", "acc", "acc_norm", "f1")


def unit_of(metric: str) -> str:
    """The unit of a metric; "" if it has none.

    >>> unit_of("eval/code/nll")
    'nats per token'
    """
    first, _, last = metric.partition("/")
    return UNITS.get(metric) or UNITS.get(f"{first}/{last.rpartition('/')[2]}", "")


def compared(metrics: Iterable[str], what: str = "nll") -> list[str]:
    """Those of `metrics` that are held-out NLL (or `what`): the main one first.

    >>> compared(["train/nll", "eval/code/nll", "eval/nll"])
    ['eval/nll', 'eval/code/nll']
    """
    found = [name for name in metrics if name.startswith("eval/") and name.endswith(f"/{what}")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def evaluated(metrics: Iterable[str]) -> list[str]:
    """Those of `metrics` that evaluations measure: held-out NLL first, the main one before others.

    >>> evaluated(["eval/exact_match", "eval/nll_stderr", "eval/bpb", "eval/nll", "lr"])
    ['eval/nll', 'eval/bpb', 'eval/exact_match']
    """
    names = [name for name in metrics if name.startswith("eval/") and not name.endswith("_stderr")]
    order = compared(names)
    order += [*compared(names, "bpb"), *sorted(names)]
    return list(dict.fromkeys(order))


def is_less_better(metric: str, chosen: str | None = None, direction: str | None = None) -> bool:
    """Whether less of a metric is better: of the `chosen` one of a run its `direction` says so, of
    others their name: NLL, bits per byte, losses.

    >>> is_less_better("eval/code/nll"), is_less_better("eval/quiz/accuracy")
    (True, False)
    >>> is_less_better("eval/judge/error", "eval/judge/error", "minimize")
    True
    """
    if metric != chosen or direction is None:
        direction = known_direction(metric)
    return direction == "minimize"


def known_direction(metric: str) -> str | None:
    """`minimize` or `maximize`, if the name of a metric tells which is better.

    >>> known_direction("eval/code/nll"), known_direction("eval/choice/accuracy")
    ('minimize', 'maximize')
    >>> known_direction("eval/judge/score") is None
    True
    """
    name = metric.rpartition("/")[2]
    if name in LESS_IS_BETTER:
        return "minimize"
    return "maximize" if name in MORE_IS_BETTER else None


def contrary(metric: str, direction: str | None) -> list[str]:
    """A sentence to read if a metric goes in the other `direction` than its name tells."""
    known = known_direction(metric)
    if None in (known, direction) or known == direction:
        return []
    better, best = ("less", "most") if known == "minimize" else ("more", "least")
    return [
        f"direction={direction}: {better} {metric} is better as a rule, and the one with the "
        f"{best} counts as the best here, since the config says so"
    ]


class MetricsFile:
    """The rows of one run: appended as they come, rewritten whole when an older one gains values.

    Evaluations arrive after later steps have been written. They are rare, so it costs little to
    rewrite the file for each. That keeps it sorted, with every step once.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {row["step"]: row for row in read(path)}
        self._file = path.open("a", encoding="utf-8")

    def merge(self, step: int, values: Mapping[str, float | str]) -> int:
        """Add `values` to row `step`; returns the row's timestamp in milliseconds since 1970."""
        row = self.rows.get(step)
        if row is None and (not self.rows or step > next(reversed(self.rows))):
            row = {"step": step, "timestamp": int(time.time() * 1000), **values}
            self.rows[step] = row
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        else:
            row = row or {"step": step, "timestamp": int(time.time() * 1000)}
            row.update(values)
            self.rows[step] = row
            self._rewrite()
        return row["timestamp"]

    def truncate(self, step: int) -> None:
        """Forget what was measured on the way past `step`: a run resumes with `step` updates.

        Rows before `step` stay; of row `step` its evaluation stays (the same weights gave it).
        """
        kept = {s: row for s, row in self.rows.items() if s < step}
        row = self.rows.get(step, {})
        evaluation = {k: v for k, v in row.items() if k.startswith("eval/") or k in NOT_METRICS}
        if len(evaluation) > len(NOT_METRICS):
            kept[step] = evaluation
        self.rows = kept
        self._rewrite()

    def sync(self) -> None:
        """Bring the rows to the disk.

        May be called in another thread than `merge`, which may replace the file meanwhile. The
        kernel has every row already, so any open file of this path will do.
        """
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        self._file.close()

    def series(self, metric: str) -> list[tuple[int, float]]:
        """The (step, value) pairs of `metric`."""
        return [(step, row[metric]) for step, row in self.rows.items() if metric in row]

    def edges(self) -> tuple[dict[str, float], dict[str, float]]:
        """The first and the last value of every metric."""
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        for row in self.rows.values():
            for key, value in row.items():
                if key not in NOT_METRICS:
                    first.setdefault(key, value)
                    last[key] = value
        return first, last

    def _rewrite(self) -> None:
        self.rows = dict(sorted(self.rows.items()))
        self._file.close()
        replace_durably(self.path, "".join(json.dumps(row) + "\n" for row in self.rows.values()))
        self._file = self.path.open("a", encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows in `path`; none if there is no file. A last line cut short is passed over."""
    return json_lines(path) if path.exists() else []


@dataclass(frozen=True)
class Nats:
    """Sums of -logprob in nats over trained tokens; those of several sequences can be added."""

    total: float = 0.0
    text: float = 0.0
    """Of those that are no special tokens."""
    tokens: int = 0
    """All of them."""

    def __add__(self, other: Nats) -> Nats:
        return Nats(self.total + other.total, self.text + other.text, self.tokens + other.tokens)


def nats(
    datum: tinker.Datum,
    logprobs: Sequence[float | None] | np.ndarray,
    special_tokens: Set[int] = frozenset(),
) -> Nats:
    """The nats of the targets of a sequence of T targets, given their `logprobs` [T].

    Targets with a weight above 0 count, all of them alike.
    """
    import numpy as np

    trained = datum.loss_fn_inputs["weights"].to_numpy() > 0
    chosen = np.asarray(logprobs, dtype=np.float64)[trained]
    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()[trained]
    text = chosen[~np.isin(targets, list(special_tokens))]
    return Nats(-float(chosen.sum()), -float(text.sum()), int(trained.sum()))


def summarize(found: Nats, num_bytes: int | None, prefix: str) -> dict[str, float]:
    """`PREFIX/nll` in nats per trained token and, if the bytes are known, `PREFIX/bpb`.

    nll = nats of all trained tokens / trained tokens.
    bpb = nats of the trained text / (ln 2 x UTF-8 bytes of the trained text). Special tokens (the
    end of a turn, say) are no text: they are left out above and below the line, as in Tinker's
    cookbook. So the bits of models whose tokenizers differ can be compared.
    """
    metrics = {f"{prefix}/nll": found.total / found.tokens if found.tokens else math.nan}
    if num_bytes:
        metrics[f"{prefix}/bpb"] = found.text / (math.log(2) * num_bytes)
    return metrics


def training_metrics(
    output: tinker.ForwardBackwardOutput,
    data: list[tinker.Datum],
    num_bytes: int | None,
    special_tokens: Set[int] = frozenset(),
) -> dict[str, float]:
    """`train/nll` and `train/bpb` of one step from the service's answer to its batch."""
    found = Nats()
    for datum, answer in zip(data, output.loss_fn_outputs, strict=True):
        found += nats(datum, answer["logprobs"].to_numpy(), special_tokens)
    return summarize(found, num_bytes, "train")


def service_metrics(
    output: tinker.ForwardBackwardOutput | tinker.types.OptimStepResponse,
) -> dict[str, float]:
    """What the service measured of a step, under `train/`: `train/grad_norm`, `train/loss:sum`.

    A word behind a colon says how the service brought the parts of a batch together.
    """
    return {f"train/{name}": float(value) for name, value in (output.metrics or {}).items()}
