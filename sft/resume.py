"""`python -m sft.resume RUN`: go on from the last confirmed checkpoint, as if nothing had happened.

The saved config is the run: nothing is composed. Same run directory, same MLflow run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from sft.config import from_saved, load_yaml
from sft.errors import BadInput
from sft.find import WORDS, run_directory


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sft.resume", description=__doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    arguments = parser.parse_args(argv)
    try:
        return resume(arguments.run, arguments.uri)
    except BadInput as error:
        print(f"sft.resume: {error}", file=sys.stderr)
        return 2


def resume(word: str, uri: str | None = None) -> int:
    """Continue the run that `word` names; the exit code. Raises `BadInput`."""
    from sft import launch, moves, rundir

    directory = run_directory(word, uri)
    if rundir.read_facts(directory).get("status") == "FINISHED":
        raise BadInput(
            f"{directory}: the run is finished; to train it again: python -m sft.reproduce {word}"
        )
    settings = from_saved(load_yaml(directory / "config.yaml"), str(directory / "config.yaml"))
    home = moves.home(directory, settings)
    if home == Path.cwd():
        return launch.run(settings, resumed=directory)
    print(f"resuming in {home}, the working folder of the run", flush=True)
    directory = directory.absolute()
    with contextlib.chdir(home):
        return launch.run(settings, resumed=directory)


if __name__ == "__main__":
    sys.exit(main())
