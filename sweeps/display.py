"""What a sweep shows while it runs: one live table in a terminal, plain lines elsewhere."""

import heapq
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
    trained: int = 0
    """Steps in this process."""
    began: float = 0.0
    """When it was last started here, by `time.monotonic`."""
    seconds: float = 0.0
    """Here, before it was last started."""

    @property
    def rest(self) -> float:
        """The part of its steps that is to be trained yet."""
        return 1 - self.step / self.steps if self.steps else 1.0


class Rows:
    """Keeps a row for each trial, and the best value; the displays differ in how they show it."""

    def __init__(self, metric: str, minimize: bool, n_trials: int, finished: int = 0):
        self.metric = metric
        self.minimize = minimize
        self.n_trials = n_trials
        self.finished = finished
        self.rows: dict[int, Row] = {}
        self.best: tuple[float, int] | None = None
        self._beside = 1  # trials that ran at once, at most
        self._began = time.monotonic()
        self._ended_here = 0

    def started(self, number: int, params: dict[str, Any], steps: int | None) -> None:
        row = self.rows.setdefault(number, Row())
        if row.state != "running" or not row.began:  # the first of its repeats
            row.began = time.monotonic()
        row.params, row.steps, row.state = params, steps, "running"
        self._beside = max(self._beside, len(self._running()))

    def progressed(self, number: int, step: int, row: dict[str, float]) -> None:
        known = self.rows.setdefault(number, Row())
        known.train = row.get("train/nll")
        if step >= known.step:  # the first of its repeats that comes there
            known.step = step + 1
            known.trained += 1

    def evaluated(self, number: int, step: int, value: float) -> None:
        self.rows.setdefault(number, Row()).value = value

    def ended(self, number: int, ending: Ending) -> None:
        row = self.rows.setdefault(number, Row())
        row.seconds += time.monotonic() - row.began if row.began else 0.0
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

    def _running(self) -> list[Row]:
        return [row for row in self.rows.values() if row.state == "running" and row.began]

    def left(self) -> float | None:
        """Seconds until the last trial ends, if each that is paused goes on.

        At the pace so far, with as many side by side as there were. None before half a trial is
        trained.
        """
        here = [row for row in self.rows.values() if row.began and row.steps]
        now = time.monotonic()
        if not here:  # jobs train them: of each its end alone is heard
            ended = self._ended_here
            return (now - self._began) / ended * (self.n_trials - self.finished) if ended else None
        done = sum(row.trained / row.steps for row in here if row.steps)
        if done < 0.5:
            return None
        running = self._running()
        seconds = sum(row.seconds for row in here) + sum(now - row.began for row in running)
        paused = [row.rest for row in self.rows.values() if row.state == "paused"]
        unseen = self.n_trials - self.finished - len(running) - len(paused)
        ends = [row.rest for row in running] + [0.0] * (self._beside - len(running))
        heapq.heapify(ends)
        for rest in [1.0] * unseen + paused:
            heapq.heapreplace(ends, ends[0] + rest)
        return seconds / done * max(ends)

    def summary(self) -> str:
        """Trials that ended, the best value and the time left, in a line."""
        word, best = "lowest" if self.minimize else "highest", ""
        if self.best:  # said without judging: the report tells what it is worth
            best = f"{word} {self.metric} {self.best[0]:.4f} (trial {self.best[1]})"
        paused = sum(row.state == "paused" for row in self.rows.values())
        waiting = f"{paused} paused" if paused else ""
        left = self.left()
        time_left = f"about {duration(left)} left{' at most' if paused else ''}" if left else ""
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
        """The table as it stands now; in a narrow terminal without the loss of the last step."""
        table = self._table(with_loss=True)
        wanted = self.console.measure(table, options=self.console.options.update(width=10_000))
        fits = wanted.maximum <= self.console.width
        return table if fits else self._table(with_loss=False)

    def _table(self, with_loss: bool) -> Table:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row.params))
        loss = ["train/nll"] * with_loss
        table = Table(caption=self.summary(), caption_justify="left")
        for name in ["trial", *names, "step", *loss, self.metric, "state"]:
            # What does not fit goes on below: cut, a value would be another.
            table.add_column(name, justify="left" if name == "state" else "right", overflow="fold")
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
                *(["" if row.train is None else f"{row.train:.4f}"] * with_loss),
                "" if row.value is None else f"{row.value:.4f}",
                f"{row.state}{' *' if is_best else ''}",
                style="bold" if is_best else "" if row.state == "running" else "dim",
            )
        return table


def make(metric: str, minimize: bool, n_trials: int, finished: int) -> Display:
    """The table in a terminal, lines elsewhere."""
    kind = LiveTable if sys.stdout.isatty() else PlainLines
    return kind(metric, minimize, n_trials, finished)
