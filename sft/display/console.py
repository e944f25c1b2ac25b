"""What a command prints in colour, to a terminal or to a pipe that may be closed."""

from __future__ import annotations

from rich.console import Console


class Output(Console):
    """Standard output. Rich would end the process with 1 where nobody reads on."""

    def __init__(self) -> None:
        super().__init__(highlight=False)

    def on_broken_pipe(self) -> None:
        """Leave it to the command: see `sft.command.main`. Raises `BrokenPipeError`."""
        raise BrokenPipeError
