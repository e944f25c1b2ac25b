"""What a sweep shows while it runs: one live table in a terminal, plain lines elsewhere."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sft.record.durations import duration
from sft.sweeps.parameters import shown, shown_value
from sft.sweeps.study.endings import Ending

KEEP_ENDED = 12  # rows of ended trials that the table keeps


class Display(Protocol):
    """What is told of the trials of a sweep."""

    finished: int
    """Trials that have ended, those of earlier processes included."""

    def started(self, number: int, params: dict[str, Any], steps: int | None) -> None:
        """A trial trains, for so many steps."""

    def progressed(self, number: int, step: int, row: dict[str, float]) -> None:
        """A step was computed; `row` holds its metrics."""

    def evaluated(self, number: int, step: int, value: float) -> None:
        """The metric that the sweep compares was measured on the way."""

    def ended(self, number: int, ending: Ending) -> None:
        """A trial is over, or interrupted."""

    def recall(self, number: int, params: dict[str, Any], value: float) -> None:
        """A trial that an earlier process completed."""

    def message(self, text: str) -> None:
        """Something the user should read."""

    def close(self) -> None:
        """Nothing more is told."""


@dataclass
class Row:
    """A trial as it stands."""

    params: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    step: int = 0
    train: float | None = None
    value: float | None = None
    state: str = "running"


class Rows:
    """Keeps a row for each trial, and the best value; the displays differ in how they show it."""

    def __init__(self, metric: str, minimize: bool, n_trials: int, finished: int = 0):
        self.metric = metric
        self.minimize = minimize
        self.n_trials = n_trials
        self.finished = finished
        self.rows: dict[int, Row] = {}
        self.best: tuple[float, int] | None = None
        self._began = time.monotonic()
        self._ended_here = 0

    def started(self, number: int, params: dict[str, Any], steps: int | None) -> None:
        row = self.rows.setdefault(number, Row())
        row.params, row.steps, row.state = params, steps, "running"

    def progressed(self, number: int, step: int, row: dict[str, float]) -> None:
        known = self.rows.setdefault(number, Row())
        known.step, known.train = step + 1, row.get("train/nll")

    def evaluated(self, number: int, step: int, value: float) -> None:
        self.rows.setdefault(number, Row()).value = value

    def ended(self, number: int, ending: Ending) -> None:
        row = self.rows.setdefault(number, Row())
        row.state = "interrupted" if ending.state is None else ending.state.name.lower()
        if ending.paused_at is not None:
            row.state = "paused"
        if ending.diverged:
            row.state = "diverged"
        if ending.state is not None:
            self.finished += 1
            self._ended_here += 1
        if ending.values:
            row.value = ending.values[0]
            self._compare(number, row.value)

    def recall(self, number: int, params: dict[str, Any], value: float) -> None:
        self.rows[number] = Row(params, value=value, state="complete")
        self._compare(number, value)

    def _compare(self, number: int, value: float) -> None:
        if self.best is None or (value < self.best[0]) == self.minimize:
            self.best = (value, number)

    def left(self) -> float | None:
        """Seconds until the last trial ends, at the pace so far."""
        if any(row.state == "paused" for row in self.rows.values()):
            return None  # nobody knows which of them go on
        running = sum(
            (row.step / row.steps) for row in self.rows.values()
            if row.state == "running" and row.steps
        )  # fmt: skip
        done = self._ended_here + running
        if done < 0.5:
            return None
        pace = (time.monotonic() - self._began) / done
        return max(0.0, pace * (self.n_trials - self.finished - running))

    def summary(self) -> str:
        """Trials that ended, the best value and the time left, in a line."""
        word, best = "lowest" if self.minimize else "highest", ""
        if self.best:  # said without judging: the report tells what it is worth
            best = f"{word} {self.metric} {self.best[0]:.4f} (trial {self.best[1]})"
        paused = sum(row.state == "paused" for row in self.rows.values())
        waiting = f"{paused} paused" if paused else ""
        left = self.left()
        time_left = f"about {duration(left)} left" if left else ""
        parts = [f"{self.finished} of {self.n_trials} trials", waiting, best, time_left]
        return ", ".join(part for part in parts if part)


class PlainLines(Rows):
    """A line for each trial that starts, is evaluated or ends."""

    def __init__(
        self,
        metric: str,
        minimize: bool,
        n_trials: int,
        finished: int = 0,
        out: TextIO | None = None,
    ):
        super().__init__(metric, minimize, n_trials, finished)
        self._out = out or sys.stdout

    def started(self, number: int, params: dict[str, Any], steps: int | None) -> None:
        super().started(number, params, steps)
        self.message(f"trial {number}: {shown(params)}")

    def evaluated(self, number: int, step: int, value: float) -> None:
        super().evaluated(number, step, value)
        steps = self.rows[number].steps
        self.message(f"trial {number}: step {step}/{steps} {self.metric} {value:.4f}")

    def ended(self, number: int, ending: Ending) -> None:
        super().ended(number, ending)
        error = f" ({ending.error})" if ending.error else ""
        self.message(f"trial {number}: {self.rows[number].state}{error}; {self.summary()}")

    def message(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        pass


class LiveTable(Rows):
    """One table that is redrawn in place; messages scroll above it."""

    def __init__(self, metric: str, minimize: bool, n_trials: int, finished: int = 0):
        super().__init__(metric, minimize, n_trials, finished)
        self.console = Console()
        self._live = Live(
            console=self.console, get_renderable=self.table, refresh_per_second=4, transient=False
        )
        self._live.start()

    def ended(self, number: int, ending: Ending) -> None:
        super().ended(number, ending)
        if ending.error:
            self.message(f"trial {number}: {self.rows[number].state} ({ending.error})")

    def message(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._live.stop()

    def table(self) -> Table:
        """The table as it stands now."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row.params))
        table = Table(caption=self.summary(), caption_justify="left")
        for name in ["trial", *names, "step", "train/nll", self.metric, "state"]:
            table.add_column(name, justify="left" if name == "state" else "right")
        ended = [number for number, row in self.rows.items() if row.state != "running"]
        hidden = set(ended[:-KEEP_ENDED]) - {self.best[1] if self.best else None}
        for number, row in sorted(self.rows.items()):
            if number in hidden:
                continue
            is_best = self.best is not None and self.best[1] == number
            table.add_row(
                str(number),
                *(shown_value(row.params.get(name)) for name in names),
                f"{row.step}/{row.steps or '?'}",
                "" if row.train is None else f"{row.train:.4f}",
                "" if row.value is None else f"{row.value:.4f}",
                f"{row.state}{' *' if is_best else ''}",
                style="bold" if is_best else "" if row.state == "running" else "dim",
            )
        return table


def make(metric: str, minimize: bool, n_trials: int, finished: int) -> Display:
    """The table in a terminal, lines elsewhere."""
    kind = LiveTable if sys.stdout.isatty() else PlainLines
    return kind(metric, minimize, n_trials, finished)
