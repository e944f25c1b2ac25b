"""What a command shows from its first moment to its banner: on a terminal live, elsewhere lines.

On a terminal it stands on standard error, and is gone once there is something else to show. In a
file or a pipe it is a line for each stage, and one every ten seconds that says how far it is; these
go to standard output beside what a run says, so that a command whose output is an answer has none.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sft.stages import stages
from sft.stages.stages import Stage, Stages

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

LOOK_SECONDS = 0.2
"""Between two looks for a stage that is new. One that is shorter gets no line."""

AGAIN_SECONDS = 10.0
"""After which a line says of a stage how far it is."""


@contextmanager
def shown(first: str, *, lines: bool) -> Iterator[None]:
    """While inside, show what is done, at first `first`; `lines`: also where there is no terminal.

    Within another one, that one goes on.
    """
    if stages.current() is not None:
        stages.preparing(first)
        yield
        return
    told = Stages(preparing=Stage(first))
    screen: OnTerminal | InLines | None = None
    if _is_terminal():
        screen = OnTerminal(told)
    elif lines:
        screen = InLines(told)
    told.screen = screen
    with stages.followed(told):
        try:
            yield
        finally:
            if screen is not None:
                screen.end()


def _is_terminal() -> bool:
    """Whether standard error is a terminal on which a line can be written anew."""
    if sys.stderr is None or not sys.stderr.isatty():
        return False
    from rich.console import Console

    return not Console(stderr=True).is_dumb_terminal


def describe(stage: Stage) -> str:
    """A stage in words.

    >>> describe(Stage("tokenising faq", total=2048, done=512))
    'tokenising faq: 512/2,048'
    """
    if stage.total is None:
        return stage.what
    return f"{stage.what}: {stage.done:,}/{stage.total:,}"


def elapsed(stage: Stage) -> str:
    """How long a stage has lasted, as minutes and seconds."""
    minutes, seconds = divmod(int(time.monotonic() - stage.began), 60)
    return f"{minutes}:{seconds:02}"


class OnTerminal:
    """A line for each stage that is under way, redrawn in place."""

    def __init__(self, told: Stages):
        from rich.console import Console
        from rich.spinner import Spinner

        self._told = told
        self._console = Console(stderr=True, highlight=False)
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self._changing = threading.RLock()
        self._last_resort = logging.lastResort
        # What is logged comes at any time, from any thread.
        logging.lastResort = _Beside(self)
        self._show()

    def _show(self) -> None:
        from rich.live import Live

        self._live = Live(
            console=self._console,
            get_renderable=self._lines,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,  # nothing may go to another stream than it was meant for
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def _lines(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=1)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column()
        table.add_column(no_wrap=True)
        shown = list(self._told.under_way)
        if not shown and self._told.preparing is not None:
            shown = [self._told.preparing]
        for one in shown:
            bar = ProgressBar(total=one.total, completed=one.done, width=16) if one.total else ""
            mark = self._spinner.render(time.monotonic())
            table.add_row(mark, Text(describe(one)), bar, elapsed(one))
        return table

    def _hide(self) -> bool:
        """Whether something was shown."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        return live is not None

    @contextmanager
    def hidden(self) -> Iterator[None]:
        with self._changing:
            was_shown = self._hide()
            try:
                yield
            finally:
                if was_shown:
                    self._show()

    def close(self) -> None:
        with self._changing:
            self._hide()
        logging.lastResort = self._last_resort

    end = close


class _Beside(logging.Handler):
    """What is logged where no handler is, above the lines that are redrawn."""

    def __init__(self, screen: OnTerminal):
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        with self._screen.hidden():
            print(self.format(record), file=sys.stderr)


class InLines:
    """A line for each new stage, and from time to time one of what takes long."""

    def __init__(self, told: Stages):
        self._told = told
        self._closed = False
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="stages", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        said: dict[Stage, float] = {}
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            for one in list(self._told.under_way):
                if one not in said and not self._closed:
                    said[one] = now
                    self._say(one.what)
                elif now - said.setdefault(one, now) >= AGAIN_SECONDS:
                    said[one] = now
                    self._say(f"{describe(one)}, {elapsed(one)} so far")

    def _say(self, text: str) -> None:
        with self._writing:
            print(f"{text} …", flush=True)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        with self._writing:
            yield

    def close(self) -> None:
        """From now on only what takes long is said."""
        self._closed = True

    def end(self) -> None:
        self._over.set()
        self._thread.join()
