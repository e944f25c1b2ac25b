"""`python -m sft.reproduce RUN`: train a run again from its saved config, and compare the numbers.

    python -m sft.reproduce outputs/2026-01-31/12-00-00-first   # do they agree?
    python -m sft.reproduce RUN lr=3e-4 max_steps=50            # but for these

The saved config is the run: nothing is composed anew. Exit code 0: the numbers agree (or a
variation finished); 1: they do not, or the run failed; 2: it cannot be run again as it was.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.command import launch
from sft.command.confirming import YES, agreed
from sft.command.main import command, new_parser
from sft.command.naming import new_directory
from sft.command.variation import link, named, vary
from sft.config.data import inventory
from sft.config.saved import from_saved, to_saved
from sft.config.secrets import leaves
from sft.display.stages import shown
from sft.errors import BadInput
from sft.past.fetched import needed
from sft.past.find import WORDS, find
from sft.past.same_data import look, trained
from sft.past.then_and_now import Seen, Verdict, compare, default_tolerance, surroundings
from sft.past.trust import TRUST, saved_config
from sft.record import fingerprints, provenance
from sft.record.metrics import read
from sft.record.rundir import read_facts
from sft.secrets import mask_urls
from sft.stages.stages import say

if TYPE_CHECKING:
    from sft.config.schema import Settings

logger = logging.getLogger(__name__)


@command("sft.reproduce")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.reproduce", __doc__)
    parser.add_argument("run", metavar="RUN", help=f"{WORDS}, or a config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="make a variation")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument("--yes", action="store_true", help=YES)
    parser.add_argument(
        "--anyway", action="store_true", help="run although the data is not the same"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference in nats that agrees (default: 0 on the local service on the "
        "same kind of CPU with the same threads and torch, else 1e-3)",
    )
    options = parser.parse_intermixed_args(argv)
    with shown("finding the run", lines=True):
        return reproduce(
            options.run,
            options.overrides,
            uri=options.uri,
            trust=options.trust,
            anyway=options.anyway,
            tolerance=options.tolerance,
            yes=options.yes,
        )


def reproduce(
    word: str,
    overrides: Sequence[str] = (),
    *,
    uri: str | None = None,
    trust: bool = False,
    anyway: bool = False,
    tolerance: float | None = None,
    yes: bool = False,
) -> int:
    """Train the run that `word` names again; the exit code. Raises `BadInput`."""
    if tolerance is not None and not tolerance >= 0:
        raise BadInput(f"--tolerance: {tolerance} is below 0")
    found = find(word, uri)
    then = found.facts()
    kept = needed(found, then, trust)
    saved = saved_config(found, trust, {one.key: one.place for one in kept})
    original = from_saved(saved, found.source)
    for override in overrides:
        saved = vary(saved, override)
    settings = from_saved(saved, found.source)
    settings = replace(settings, run_name=named(word, original, settings, overrides))
    settings = replace(settings, run_dir=str(new_directory(settings)))
    rows, batches = found.rows(), found.batches()
    values = dict(leaves(saved))
    for one in kept:
        if values.get(one.key) == one.place:  # not varied
            say(one.fetch(found))
    seen = _look(settings, then, batches, overrides, anyway) if then else Seen()
    say(f"{'a variation of' if overrides else 'reproducing'} {found.word}")
    for line in [*overrides, *seen.different, *([] if overrides else _no_differences(seen))]:
        say(f"  {mask_urls(line)}")
    tags = {"sft.variation_of" if overrides else "sft.reproduces": found.name}
    code = launch.run(agreed(settings, yes), overrides=list(overrides), tags=tags)
    directory = Path(settings.run_dir or "")
    if not directory.exists():  # a signal ended it before there was anything
        return code
    again = read_facts(directory)
    if tolerance is None:
        tolerance = default_tolerance(to_saved(settings), then, again)
    verdict = None
    if not overrides and rows:
        verdict = compare(rows, read(directory / "metrics.jsonl"), tolerance)
        status = again.get("status")
        if status not in ("FINISHED", then.get("status")):
            verdict = Verdict(False, f"the reproduction ended {status}")
        if status == "KILLED" != then.get("status"):  # nothing went wrong: it may be resumed
            verdict = None
            print("there is no verdict: the reproduction was stopped before its end")
        else:
            if words := trained(batches, find(str(directory)).batches()):
                print(words)
            print(f"verdict: {verdict}")
    elif not overrides:
        print("there are no numbers to compare with: a config alone has no past")
    link(found, directory, tags, verdict)
    return code or (0 if verdict is None or verdict.agrees else 1)


def _look(
    settings: Settings,
    then: dict[str, Any],
    batches: dict[int, str],
    overrides: Sequence[str],
    anyway: bool,
) -> Seen:
    """What is as it was, what is not, and what cannot be told. Raises `BadInput` on other data.

    A variation may well train on other data, and says so if its overrides do not.
    """
    seen = Seen()
    code: dict[str, str] = {}
    if not any(override.startswith("dataset") for override in overrides):
        seen, code = look(settings, then, {} if overrides else batches)
        if seen.different and not overrides and not anyway:
            raise BadInput(
                f"the data is not the same: {'; '.join(seen.different)}; add --anyway to run on "
                "it nevertheless"
            )
    model = fingerprints.model_files(settings.model.name)
    now = provenance.collect() | {"code": code or then.get("code"), "model": model}
    now["files"] = inventory(to_saved(settings))
    around = surroundings(then, now, local=settings.service.kind == "local")
    if settings.checkpoint.load:
        around.unseen.append(f"the weights that it starts from, {settings.checkpoint.load}")
    around.add(seen)
    return around


def _no_differences(seen: Seen) -> Iterator[str]:
    """What was compared without a difference, and what was not compared."""
    if seen.same:
        yield f"as it was: {', '.join(seen.same)}"
    for what in seen.unseen:
        yield f"not compared: {what}"


if __name__ == "__main__":
    sys.exit(main())
