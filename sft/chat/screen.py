"""How answers are shown: as they come, below each other, or beside each other in columns."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from sft.chat.speaker import Speaker

WIDE = 100
"""Columns of a terminal from which on two answers stand beside each other."""


class Screen:
    """Shows the answers of some speakers on a rich console."""

    def __init__(self, console: Any, speakers: list[Speaker]):
        self.console = console
        self.speakers = speakers

    @property
    def in_columns(self) -> bool:
        """Whether answers stand beside each other."""
        console = self.console
        return len(self.speakers) > 1 and console.is_terminal and console.width >= WIDE

    async def answer(self, words: str) -> None:
        """Ask all speakers and show what they say. Raises `BadInput`."""
        if self.in_columns:
            await self._beside(words)
        else:
            for speaker in self.speakers:
                await self._below(speaker, words)

    async def _below(self, speaker: Speaker, words: str) -> None:
        """Write the new words of an answer behind those that stand there."""
        if len(self.speakers) > 1:
            self.console.print(f"{speaker.name}: ", end="", style="bold", markup=False)
        shown = ""
        try:
            async with aclosing(speaker.answer(words)) as answer:
                async for text in answer:
                    self._write(text[len(shown) :])
                    shown = text if len(text) > len(shown) else shown
        finally:
            self._write("\n")

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()

    async def _beside(self, words: str) -> None:
        """Let all answer at once, each in a column."""
        from rich.live import Live

        texts = [""] * len(self.speakers)
        with Live(self._table(texts), console=self.console, vertical_overflow="visible") as live:

            async def follow(index: int, speaker: Speaker) -> None:
                async with aclosing(speaker.answer(words)) as answer:
                    async for text in answer:
                        texts[index] = text
                        live.update(self._table(texts))

            try:
                async with asyncio.TaskGroup() as group:
                    for index, speaker in enumerate(self.speakers):
                        group.create_task(follow(index, speaker))
            except ExceptionGroup as errors:  # the others are cancelled by then
                raise errors.exceptions[0] from errors

    def _table(self, texts: list[str]) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), show_edge=False)
        for speaker in self.speakers:
            table.add_column(Text(speaker.name), ratio=1, header_style="bold")
        table.add_row(*map(Text, texts))
        return table
