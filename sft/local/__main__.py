"""`python -m sft.local`: serves models on this machine through the Tinker API."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sft.local import signals

if TYPE_CHECKING:  # numpy: not for --help
    from sft.local.engine_api import Engine

KEY_VARIABLE = "SFT_SERVICE_KEY"

EXAMPLES = """\
examples:
  python -m sft.local --root ~/tinker --model Qwen/Qwen3-0.6B
  python -m sft.local --root ~/tinker --model my-model=/data/my-model --port 8000

It prints its address and key as two exports; with those, any program that uses the tinker SDK
talks to it, tinker-cookbook's recipes and the command `tinker checkpoint` too. The key is random,
or what SFT_SERVICE_KEY holds (it must begin with tml-). Manual: docs/local-service.md."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sft.local",
        description="A Tinker service on this machine: LoRA training and sampling over HTTP.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that holds checkpoints")
    parser.add_argument(
        "--model", action="append", required=True, metavar="NAME[=FOLDER]", dest="models",
        help="base model to serve: a Hub name, or any name and the folder that holds it; "
        "may be given several times",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0: a free one (%(default)s)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="of the base model; auto: bfloat16 where this machine is fast at it (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--until-unused", action="store_true",
        help="end when no process holds a lock on ROOT/users.lock any more",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.models = dict(_named(text) for text in options.models)
    return options


def _named(text: str) -> tuple[str, str | None]:
    """NAME or NAME=FOLDER; a bare folder is its own name."""
    name, found, folder = text.partition("=")
    if not found and Path(text).is_dir():
        folder = text
    return name, os.path.abspath(folder) if folder else None


def main() -> int:
    options = parse()
    if options.until_unused:  # see server.py; already now, since loading a model takes long
        signals.ignore()
    from sft.local.engine.engine import TorchEngine  # torch: not for --help
    from sft.local.engine_api import EngineError
    from sft.local.server.server import CannotServe, tell_how_far
    from sft.local.server.store import StoreError

    def make_engine() -> TorchEngine:
        tell = partial(tell_how_far, options.root)
        return TorchEngine(options.models, options.dtype, tell=tell)

    try:
        return run(options, make_engine)
    except (CannotServe, EngineError, StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:  # while it loads
        return 130


def run(options: argparse.Namespace, make_engine: Callable[[], Engine]) -> int:
    """Serves what `make_engine` returns until it is told to end."""
    from sft.local.server.core import Core  # tinker: not for --help
    from sft.local.server.server import (
        Announcement,
        CannotServe,
        Ending,
        allow_many_connections,
        listening,
        root_lock,
        serve,
        url_of,
    )
    from sft.local.server.store import Store

    key = os.environ.pop(KEY_VARIABLE, None) or f"tml-{secrets.token_urlsafe(32)}"
    if not key.startswith("tml-"):
        raise CannotServe(f"{KEY_VARIABLE} must begin with tml-, as every key of the SDK does")
    allow_many_connections()
    root, ending = options.root.absolute(), Ending()
    with root_lock(root), listening(options.host, options.port) as bound:
        if options.until_unused:
            ending.when_unused(root)
        url = url_of(bound)

        def greet() -> None:
            if not options.until_unused:  # else this goes to a log, which is no place for a key
                print(f"Serving {', '.join(options.models)} from {root}. In another terminal:")
                print(f"  export TINKER_BASE_URL={url}")
                print(f"  export TINKER_API_KEY={key}", flush=True)

        async def main() -> None:
            engine = make_engine()
            warnings = engine.warnings()
            for sentence in warnings:
                print(f"warning: {sentence}", file=sys.stderr, flush=True)
            announcement = Announcement(url, key, options.models, options.dtype, warnings)
            core = Core(engine, Store(root))
            await serve(core, bound, announcement, root, ending=ending, on_ready=greet)

        asyncio.run(main())
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a computation under way in the engine's thread is not waited for
