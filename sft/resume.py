"""`python -m sft.resume RUN`: go on from the last confirmed checkpoint, as if nothing had happened.

    python -m sft.resume outputs/2026-01-31/12-00-00-first
    python -m sft.resume RUN budget.usd=20   # a run that its budget has ended

The saved config is the run: nothing is composed, and nothing but the budget can be changed. Same
run directory, same MLflow run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from sft.command import launch
from sft.command.confirming import YES, agreed
from sft.command.main import command, new_parser
from sft.command.variation import vary
from sft.config.saved import completed, from_saved
from sft.display.stages import shown
from sft.errors import BadInput
from sft.files import read_yaml
from sft.past.find import WORDS, run_directory
from sft.record import rundir
from sft.stages.stages import say
from sft.tracking import moved_project


@command("sft.resume")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.resume", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("overrides", nargs="*", metavar="budget.usd=…", help="a larger budget")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--yes", action="store_true", help=YES)
    arguments = parser.parse_intermixed_args(argv)
    with shown("finding the run", lines=True):
        return resume(arguments.run, arguments.overrides, arguments.uri, yes=arguments.yes)


def resume(
    word: str, overrides: Sequence[str] = (), uri: str | None = None, *, yes: bool = False
) -> int:
    """Continue the run that `word` names; the exit code. Raises `BadInput`."""
    for override in overrides:
        if (key := override.partition("=")[0]).partition(".")[0] not in rundir.MAY_CHANGE:
            raise BadInput(
                f"{key}: a run goes on as it began, but for budget.usd; for another way from one "
                f"of its checkpoints: python -m sft.fork {word} --from STEP {override}"
            )
    directory = run_directory(word, uri)
    if rundir.read_facts(directory).get("status") == "FINISHED":
        raise BadInput(
            f"{directory}: the run is finished; to train it again: python -m sft.reproduce {word}"
        )
    file = directory / "config.yaml"
    saved = completed(read_yaml(file), str(file))
    for override in overrides:
        saved = vary(saved, override)
    settings = agreed(from_saved(saved, str(file)), yes)
    home = moved_project.home(directory, settings)
    if home == Path.cwd():
        return launch.run(settings, resumed=directory)
    say(f"resuming in {home}, the working folder of the run")
    directory = directory.absolute()
    with contextlib.chdir(home):
        return launch.run(settings, resumed=directory)


if __name__ == "__main__":
    sys.exit(main())
