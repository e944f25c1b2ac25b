"""`python -m sft.export RUN DIR`: a checkpoint as a folder that other programs load.

    python -m sft.export RUN adapter         # a PEFT adapter
    python -m sft.export RUN adapter --checkpoint best
    python -m sft.export models:/qwen-faq@champion adapter
    python -m sft.export RUN model --merge   # the whole model
    python -m sft.export RUN model --gguf    # one file for llama.cpp

The folder has the tokenizer with its chat template and a model card (README.md). It appears whole
or not at all. A merged model ends its answers where they were trained to end.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sft.command.main import command, new_parser
from sft.config.shadows import check_working_folder
from sft.export.folder import Chosen, write
from sft.export.loading import commands, remarks
from sft.past.choosing import CHECKPOINT
from sft.past.find import WORDS
from sft.past.trust import TRUST


@command("sft.export", needs_torch=True)
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.export", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or an empty folder")
    parser.add_argument("--checkpoint", metavar="NAME", help=CHECKPOINT)
    add_form(parser)
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_args(argv)
    check_working_folder()
    try:
        with _ending_in_order():
            said = export(
                options.run,
                options.folder,
                options.checkpoint,
                options.form,
                options.uri,
                trust=options.trust,
            )
    except KeyboardInterrupt:
        print("sft.export: interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    print(said)
    return 0


def add_form(parser: argparse.ArgumentParser) -> None:
    """The options that say what is made of a checkpoint: `form`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--merge",
        dest="form",
        action="store_const",
        const="merged",
        default="adapter",
        help="merge into the base model",
    )
    form.add_argument(
        "--gguf", dest="form", action="store_const", const="gguf", help="merge, into a GGUF file"
    )


def export(
    word: str,
    target: Path,
    checkpoint: str | None = None,
    form: str = "adapter",
    uri: str | None = None,
    *,
    trust: bool = False,
) -> str:
    """Bring a checkpoint of the run `word` to the folder `target` as an `adapter`, `merged` or as
    `gguf`; what is there, and how to load it. Raises `BadInput`."""
    chosen = Chosen.of(word, checkpoint, form, uri, trust=trust)
    exported, tensors = write(chosen, target)
    kind = {
        "adapter": f"a PEFT adapter for {chosen.base}",
        "merged": "a model with the adapter merged in",
        "gguf": "a GGUF file with the adapter merged in",
    }[form]
    lines = [
        f"{target}: checkpoint {chosen.record.name} as {kind}, {tensors} tensors of the adapter "
        "checked",
        *(f"  {who:<13} {line}" for who, line in commands(exported).items()),
        *remarks(exported),
    ]
    return "\n".join(lines)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """TERM ends the process by an exception, so that what is half-done is removed on the way."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
