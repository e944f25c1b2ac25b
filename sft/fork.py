"""`python -m sft.fork RUN --from STEP [KEY=VALUE]`: another way from a checkpoint of a run.

    python -m sft.fork RUN --from 40 lr=1e-4          # a lower rate
    python -m sft.fork RUN --from 400 max_steps=500   # wsd: decay from there
    python -m sft.fork STUDY/7 --from 20              # a paused trial

The new run has the saved config but for what is said, and the weights, the optimizer and the place
in the data that the run had behind STEP steps. Its own config says so: it can be reproduced.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command import launch
from sft.command.confirming import YES, agreed
from sft.command.main import command, new_parser
from sft.command.naming import new_directory
from sft.command.variation import link, named, vary
from sft.config.saved import from_saved
from sft.display.stages import shown
from sft.errors import BadInput
from sft.past.choosing import at_step, home
from sft.past.find import WORDS, Found, find
from sft.past.trust import TRUST, saved_config
from sft.schedules import SCHEDULES, Schedule
from sft.stages.stages import say

if TYPE_CHECKING:
    from sft.config.schema import Settings

BEFORE = (
    "model", "lora", "dataset", "batch_size", "max_length", "train_on_what", "loss", "reduction",
    "seed", "date", "optimizer.kind", "checkpoint.load", "checkpoint.step",
)  # fmt: skip
"""Keys that say what the steps before were trained with."""


@command("sft.fork")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.fork", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what is to be different")
    parser.add_argument(
        "--from", dest="step", metavar="STEP", type=int, required=True, help="of a checkpoint"
    )
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--yes", action="store_true", help=YES)
    options = parser.parse_intermixed_args(argv)
    with shown("finding the run", lines=True):
        return fork(
            options.run,
            options.step,
            options.overrides,
            uri=options.uri,
            trust=options.trust,
            yes=options.yes,
        )


def fork(
    word: str,
    step: int,
    overrides: Sequence[str] = (),
    *,
    uri: str | None = None,
    trust: bool = False,
    yes: bool = False,
) -> int:
    """Train on from the checkpoint behind `step` steps of the run `word`; the exit code.

    Raises `BadInput`.
    """
    found = find(word, uri)
    record = at_step(found, step)
    saved = saved_config(found, trust)
    original = from_saved(saved, found.source)
    for override in overrides:
        key = override.partition("=")[0]
        if f"{key}.".startswith(tuple(f"{before}." for before in BEFORE)):
            raise BadInput(
                f"{key}: the {step} steps before were trained with it, and a fork keeps it; "
                f"python -m sft.reproduce {word} {override} trains from the start"
            )
        saved = vary(saved, override)
    settings = from_saved(saved, found.source)
    start = replace(settings.checkpoint, load=record.state_path, step=step)
    settings = replace(settings, checkpoint=start)
    name = named(word, original, settings, [*overrides, f"from={step}"])
    settings = replace(settings, run_name=name)
    if settings.run_dir:
        settings = replace(settings, run_dir=str(Path(settings.run_dir).absolute()))
    say(f"a fork of {found.word} from checkpoint {record.name}, {step} steps done")
    if sentence := _other_rates(found, step, original, settings):
        say(f"  {sentence}")
    place = home(found, settings)
    if place != Path.cwd():
        say(f"  in {place}, the working folder of the run")
    if found.directory:
        found = replace(found, directory=found.directory.absolute())
    tags = {"sft.fork_of": found.name}
    with contextlib.chdir(place):
        settings = replace(settings, run_dir=str(new_directory(settings)))
        code = launch.run(agreed(settings, yes), overrides=list(overrides), tags=tags)
        directory = Path(settings.run_dir or "")
        if directory.exists():
            link(found, directory, tags)
    return code


def _other_rates(found: Found, step: int, original: Settings, settings: Settings) -> str | None:
    """What to know of the `step` steps before if a run like the new one would have trained them
    with other shares of the peak learning rate; None if it would not have."""
    row = next((row for row in found.rows() if row["step"] == step - 1), {})
    if "epoch" not in row or "progress" not in row:
        return None
    batches, before = round(step / row["epoch"]), round(step / row["progress"])
    whole = batches * settings.epochs
    after = min(whole, settings.max_steps or whole)
    had, has = _schedule(original), _schedule(settings)
    for s in range(step):
        if not math.isclose(had.factor(s, before), has.factor(s, after), abs_tol=1e-9):
            break
    else:
        return None
    last = step - 1
    return (
        f"note: what this run ends at is not what {after} steps from the start would: the steps "
        f"before had other learning rates (at step {last} {had.factor(last, before):.0%} of the "
        f"peak, and not {has.factor(last, after):.0%}); the rates are the same up to --from {s}"
    )


def _schedule(settings: Settings) -> Schedule:
    values = asdict(settings.schedule)
    return SCHEDULES[values.pop("kind")](**values)


if __name__ == "__main__":
    sys.exit(main())
