"""What every command does alike: its arguments, and bad input as one sentence and exit code 2."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Protocol

from sft.errors import BadInput

INTERRUPTED = 130
"""The exit code of what Ctrl-C has ended, as a shell has it."""


class Main(Protocol):
    """A command; `argv` are its arguments, by default those of the process."""

    def __call__(self, argv: list[str] | None = None) -> int: ...


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m NAME`, whose help is the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def command(name: str) -> Callable[[Main], Main]:
    """Let `main(argv)` of the command `name` raise `BadInput`: it becomes `NAME: sentence` on
    standard error and exit code 2, and Ctrl-C an exit code without a word."""

    def heeding(main: Main) -> Main:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            try:
                return main(argv)
            except BadInput as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                return INTERRUPTED

        return run

    return heeding
