"""`python -m sft.chat RUN [RUN]`: talk to what was trained, in several turns.

    python -m sft.chat last
    python -m sft.chat last faq               # two runs side by side
    python -m sft.chat last --base            # beside it the base model
    python -m sft.chat last < questions.txt   # a line is a turn

Ctrl-C stops an answer, Ctrl-D ends, /reset begins a new conversation. The words come in pieces of 4
to 32 tokens, for the Tinker API has no streaming; each piece has the conversation read again, which
hosted Tinker bills as prefill.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from sft.chat.screen import Screen
from sft.chat.services import speakers, wanted
from sft.command.main import command, new_parser
from sft.config.shadows import check_working_folder
from sft.errors import BadInput
from sft.past.choosing import CHECKPOINT
from sft.past.find import WORDS
from sft.past.trust import TRUST
from sft.sample import check_sampling

HINT = "Ctrl-C stops an answer, Ctrl-D ends, /reset begins a new conversation"
RESET = "/reset"
SAMPLING = ("system", "max_tokens", "temperature", "seed")
"""Options that are fields of a `Speaker`."""


@command("sft.chat")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.chat", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help=WORDS)
    parser.add_argument("--base", action="store_true", help="the first run's base model, too")
    parser.add_argument("--checkpoint", metavar="NAME", help=CHECKPOINT)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest answer (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0: the likeliest token (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (%(default)s)")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_args(argv)
    check_working_folder()
    check_sampling(options)
    logging.getLogger("tinker").addHandler(logging.NullHandler())  # a sentence says it
    if len(options.runs) + options.base > 2:
        raise BadInput("two can be compared, not more: RUN RUN, or RUN --base")
    found = [
        wanted(word, options.checkpoint, options.uri, trust=options.trust) for word in options.runs
    ]
    if options.base:
        found.append(wanted(options.runs[0], None, options.uri, trust=options.trust, base=True))

    first = None if sys.stdin.isatty() else _next_words()
    if first is None and not sys.stdin.isatty():
        raise BadInput("standard input is empty: it needs a line for each turn, or a terminal")

    from sft.display.console import Output

    console = Output()
    sampling = {name: getattr(options, name) for name in SAMPLING}
    try:
        with asyncio.Runner() as runner, console.status("starting the service") as status:
            with speakers(found, runner, **sampling) as all_speakers:
                status.stop()
                _talk(Screen(console, all_speakers), runner, first)
    except KeyboardInterrupt:  # before the first turn, or on the way out
        return 128 + signal.SIGINT
    return 0


def _talk(screen: Screen, runner: asyncio.Runner, first: str | None) -> None:
    """Turn after turn, until the input ends; `first` is what was read of it already."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - gives `input` a history and the arrow keys

        names = " and ".join(speaker.name for speaker in screen.speakers)
        screen.console.print(f"{names}: {HINT}", style="dim", markup=False)
    words = first if first is not None else _next_words()
    while words is not None:
        if words.strip() == RESET:
            for speaker in screen.speakers:
                speaker.reset()
        elif words.strip():
            _ask(screen, runner, words)
        words = _next_words()


def _ask(screen: Screen, runner: asyncio.Runner, words: str) -> None:
    try:
        runner.run(screen.answer(words))
    except KeyboardInterrupt:
        screen.console.print("(stopped)", style="dim")
    except BadInput as error:
        print(f"sft.chat: {error}", file=sys.stderr)


def _next_words() -> str | None:
    """The next line of the user; None at the end of the input."""
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            return input("> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                print()
            return None
        except KeyboardInterrupt:  # as a shell does: a new line
            print()


if __name__ == "__main__":
    sys.exit(main())
