"""`python -m sft.resume RUN`: go on from the last confirmed checkpoint, as if nothing had happened.

The saved config is the run: nothing is composed. Same run directory, same MLflow run.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from sft.command import launch
from sft.command.main import command, new_parser
from sft.config.saved import from_saved
from sft.errors import BadInput
from sft.files import read_yaml
from sft.past.find import WORDS, run_directory
from sft.record import rundir
from sft.tracking import moved_project


@command("sft.resume")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.resume", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    arguments = parser.parse_args(argv)
    return resume(arguments.run, arguments.uri)


def resume(word: str, uri: str | None = None) -> int:
    """Continue the run that `word` names; the exit code. Raises `BadInput`."""
    directory = run_directory(word, uri)
    if rundir.read_facts(directory).get("status") == "FINISHED":
        raise BadInput(
            f"{directory}: the run is finished; to train it again: python -m sft.reproduce {word}"
        )
    settings = from_saved(read_yaml(directory / "config.yaml"), str(directory / "config.yaml"))
    home = moved_project.home(directory, settings)
    if home == Path.cwd():
        return launch.run(settings, resumed=directory)
    print(f"resuming in {home}, the working folder of the run", flush=True)
    directory = directory.absolute()
    with contextlib.chdir(home):
        return launch.run(settings, resumed=directory)


if __name__ == "__main__":
    sys.exit(main())
