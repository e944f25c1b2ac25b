"""What every command does alike: its arguments, and bad input as one sentence and exit code 2."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import select
import sys
import textwrap
from collections.abc import Callable
from typing import Any, Protocol

from sft.errors import BadInput
from sft.models import without_torch

INTERRUPTED = 130
"""The exit code of what Ctrl-C has ended, as a shell has it."""
UNREAD = 141
"""The exit code where nobody reads on, as in `| head`: as a shell has it for SIGPIPE."""


class Main(Protocol):
    """A command; `argv` are its arguments, by default those of the process."""

    def __call__(self, argv: list[str] | None = None) -> int: ...


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m NAME`, whose help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, formatter_class=_Paragraphs
    )


class _Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph of a text to the terminal's width; examples stay as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        examples = ("  ", "python -m ")
        return "\n\n".join(
            part if part.startswith(examples) else textwrap.fill(part, width) for part in paragraphs
        )


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Give a command that takes the keys of a run the option `--config-dir`, as training has it."""
    parser.add_argument("--config-dir", metavar="FOLDER", help="config files of your own")


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a command that lists or compares the option `--json`; `what` it prints then."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON instead")


def print_json(value: Any) -> None:
    """What `--json` prints: a list of objects, or one object of what is one thing.

    Numbers are numbers, times are seconds, and what is not known or not finite is null.
    """
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command(name: str, needs_torch: bool = False) -> Callable[[Main], Main]:
    """Let `main(argv)` of the command `name` raise `BadInput`: it becomes `NAME: sentence` on
    standard error and exit code 2; and Ctrl-C, or a reader who has gone (`| head`), an exit code
    without a word. A command that has a process of its own, which is where `argv` is None, does
    without PyTorch unless it `needs_torch`."""

    def heeding(main: Main) -> Main:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            if argv is None and not needs_torch:
                without_torch.begin()
            try:
                try:
                    return main(argv)
                finally:
                    sys.stdout.flush()
            except BrokenPipeError:
                return left_unread()
            except BadInput as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                return INTERRUPTED

        return run

    return heeding


def left_unread() -> int:
    """The exit code of a command that a `BrokenPipeError` ended, which is raised again if it is
    not of standard output."""
    if not _is_unread():
        raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is not flushed yet
    return UNREAD


def _is_unread() -> bool:
    """Whether whoever read standard output has gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file at all
        return False
