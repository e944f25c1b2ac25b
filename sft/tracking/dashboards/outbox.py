"""What runs have for a dashboard, kept until it is there: one thread for each dashboard.

The run directory is the truth. The hook of a run only notes what is new, and this thread sends it:
a dashboard that is slow or down neither slows nor kills training. What it misses is sent when it
is back: by the same process, by the one that resumes the run, or by `python -m sft.runs`.
"""

from __future__ import annotations

import atexit
import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sft.files import json_lines
from sft.record import checkpoints
from sft.record.metrics import read
from sft.secrets import mask_urls
from sft.tracking.dashboards.page import End, Page, Row, Sent, State, Told

logger = logging.getLogger("sft.tracking")

MAX_PENDING = 10_000
"""Rows kept in memory while a dashboard is away; beyond them their file is read again."""
REST = 0.5
"""Seconds between two turns, unless somebody waits: what comes meanwhile goes in one batch."""
LONGEST_WAIT = 60.0
"""Seconds between two tries to reach a dashboard that does not answer."""
ATTEMPTS_AT_THE_END = 3
"""After so many failures a flush gives up before its time."""
AT_EXIT_SECONDS = 15.0


@dataclass
class Parcel:
    """What one run has for the dashboard. Hooks fill it; the outbox's thread empties it."""

    told: Told
    state: State
    open: Callable[[Told], Page]
    resumed_at: int | None = None
    """Updates that the run goes on from; None once the dashboard's state is back there, too."""
    after: Parcel | None = None
    """An earlier life of the run, of which something is still to be sent."""
    rows: deque[Row] = field(default_factory=deque)
    whole_file: bool = True
    """metrics.jsonl is to be read: for the first time, or since something went wrong."""
    new_tables: bool = True
    new_checkpoints: bool = True
    end: End | None = None
    closed: bool = False
    """The end was sent: nothing is left to do."""
    failures: int = 0
    """In a row."""
    error: str = ""
    given_up: bool = False
    """A flush has said that something is lacking."""
    next_try: float = 0.0
    page: Page | None = None
    _sent: Sent = field(default_factory=Sent)
    """What the page was told; `state.sent` is what it has confirmed."""
    _busy: bool = False

    @property
    def pending(self) -> bool:
        new = self.new_tables or self.new_checkpoints or self.whole_file
        return not self.closed and bool(self.rows or new or self.end or self._busy)

    @property
    def may_be_sent(self) -> bool:
        return self.pending and (self.after is None or not self.after.pending)

    def add(self, row: Row) -> None:
        """`row` is in metrics.jsonl."""
        if len(self.rows) >= MAX_PENDING:
            self.rows.clear()
            self.whole_file = True
        self.rows.append(row)

    def send(self) -> None:
        """Send all that is new. Raises what the dashboard raises."""
        self._busy = True
        try:
            self._send(self.page or self._begun())
        except BaseException:
            self.page = None  # the next one is told again what was not confirmed
            self.whole_file = self.new_tables = self.new_checkpoints = True
            raise
        finally:
            self._busy = False

    def _begun(self) -> Page:
        if self.resumed_at is not None:
            self.state.sent.back_to(self.resumed_at)
            self.state.ended = self.resumed_at = None
            self.state.save()
        page = self.open(self.told)
        if not page.begin():
            self.state.sent = Sent()
        self._sent = copy.deepcopy(self.state.sent)
        self.page = page
        return page

    def _send(self, page: Page) -> None:
        end = self.end
        if self.whole_file:
            self.whole_file = False
            there = read(self.told.directory / "metrics.jsonl")
            self._send_rows(page, [(row["step"], row["timestamp"], row) for row in there])
        if count := len(self.rows):
            self._send_rows(page, [self.rows.popleft() for _ in range(count)])
        if self.new_tables:
            self.new_tables = False
            self._send_tables(page)
        if self.new_checkpoints:
            self.new_checkpoints = False
            file = self.told.directory / "checkpoints.jsonl"
            if file.exists() and (records := checkpoints.read(file)):
                page.checkpoints(records)
        if end is not None:
            page.end(end)
            self.state.sent, self.state.ended = self._sent, end.status
            self.state.save()
            self.closed = True

    def _send_rows(self, page: Page, rows: list[Row]) -> None:
        new = [missing for row in rows if (missing := self._sent.missing(row))]
        if new:
            confirmed = page.rows(new)
            self._sent.add(new)
            if confirmed:
                self.state.sent = copy.deepcopy(self._sent)
                self.state.save()

    def _send_tables(self, page: Page) -> None:
        for file in sorted((self.told.directory / "tables").glob("*.jsonl")):
            lines = json_lines(file)
            for line in lines[self._sent.tables.get(file.stem, 0) :]:
                page.table(file.stem, line["step"], line["rows"])
            self._sent.tables[file.stem] = len(lines)


class Outbox:
    """The parcels of this process for one dashboard, and the thread that sends them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._condition = threading.Condition()
        self._parcels: list[Parcel] = []
        self._thread: threading.Thread | None = None
        self._flushing = 0

    def state_of(self, directory: Path) -> State | None:
        """Of the run in `directory`, if this process still sends something of it."""
        with self._condition:
            states = [p.state for p in self._parcels if p.told.directory == directory]
        return states[-1] if states else None

    def add(self, parcel: Parcel) -> None:
        """Begin to send `parcel`."""
        with self._condition:
            for earlier in self._parcels:
                if earlier.told.directory == parcel.told.directory:
                    parcel.after = earlier
            self._parcels.append(parcel)
            if self._thread is None or not self._thread.is_alive():
                name = f"sft-{self.title}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()
                atexit.register(self._at_exit)
            self._condition.notify_all()

    def wake(self) -> None:
        """A parcel has something new."""
        with self._condition:
            self._condition.notify_all()

    def flush(self, timeout: float) -> list[str]:
        """Wait until all is sent, `timeout` seconds at most; a sentence for each run that lacks
        something."""
        deadline = time.monotonic() + timeout
        with self._condition:
            before = {id(parcel): parcel.failures for parcel in self._parcels}

            def waiting(parcel: Parcel) -> bool:
                tries = parcel.failures - before.get(id(parcel), 0)
                return parcel.may_be_sent and tries < ATTEMPTS_AT_THE_END

            self._flushing += 1
            while any(map(waiting, self._parcels)) and (left := deadline - time.monotonic()) > 0:
                for parcel in self._parcels:
                    parcel.next_try = 0.0
                self._condition.notify_all()
                self._condition.wait(min(left, 0.2))
            self._flushing -= 1
            lacking = [parcel for parcel in self._parcels if parcel.pending]
            for parcel in lacking:
                parcel.given_up = True
            return [self._unsent(parcel) for parcel in lacking]

    def _work(self) -> None:
        while True:
            parcel = self._next()
            try:
                parcel.send()
            except BaseException as error:  # SystemExit, too: this thread must live to say so
                self._missed(parcel, error)
            else:
                if parcel.failures:
                    logger.warning("%s is back", self.title)
                parcel.failures = 0
            with self._condition:
                if parcel.closed:
                    self._parcels.remove(parcel)
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._flushing, REST)

    def _next(self) -> Parcel:
        """Wait for a parcel with something new that may be tried; take turns."""
        with self._condition:
            while True:
                now = time.monotonic()
                pending = [parcel for parcel in self._parcels if parcel.may_be_sent]
                for parcel in pending:
                    if parcel.next_try <= now:
                        self._parcels.remove(parcel)
                        self._parcels.append(parcel)
                        return parcel
                waits = [parcel.next_try - now for parcel in pending]
                self._condition.wait(min(waits, default=None))

    def _missed(self, parcel: Parcel, error: BaseException) -> None:
        words = str(error).strip().splitlines() or [type(error).__name__]
        first, parcel.error = parcel.failures == 0, mask_urls(words[0])[:300]
        parcel.failures += 1
        parcel.next_try = time.monotonic() + min(2.0**parcel.failures, LONGEST_WAIT)
        if first and not parcel.given_up:
            logger.warning(
                "%s cannot be told of %s (%s); training goes on, and what it misses is sent later",
                self.title,
                parcel.told.directory,
                parcel.error,
            )

    def _unsent(self, parcel: Parcel) -> str:
        return (
            f"{self.title} lacks part of {parcel.told.directory} ({parcel.error or 'it is slow'}); "
            f"`python -m sft.runs {parcel.told.directory}` sends it when that is mended"
        )

    def _at_exit(self) -> None:
        if all(parcel.given_up for parcel in self._parcels):
            return
        for sentence in self.flush(AT_EXIT_SECONDS):
            logger.warning("%s", sentence)
