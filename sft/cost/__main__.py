"""`python -m sft.cost RUN|STUDY`: what a run or a sweep has cost, beside the provider's own bill.

    python -m sft.cost outputs/2026-01-31/12-00-00-first
    python -m sft.cost my-sweep        # all trials of a study
    python -m sft.cost RUN --no-bill   # without asking the provider

The provider is asked where a run was trained elsewhere than on this machine. It wants a key with a
view of the billing, and is some hours behind.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from sft.command.main import add_json, command, new_parser, print_json
from sft.config.saved import from_saved
from sft.cost import meter
from sft.cost.bill import Bill, of_sessions
from sft.cost.estimate import NO_PRICE
from sft.cost.prices import Prices, amount, dollars, in_use
from sft.cost.usage import KINDS, Usage
from sft.display.tables import aligned
from sft.errors import BadInput
from sft.files import read_yaml
from sft.past.find import SWEEPS, WORDS, find
from sft.past.listing import find_runs
from sft.record.durations import duration
from sft.record.rundir import read_facts
from sft.run.client import Service
from sft.service.child import api_key

NO_RATE = "no price"


@dataclass
class Spent:
    """One run as it is shown."""

    directory: Path
    facts: dict[str, Any]
    kind: str
    """Of its service."""
    base_url: str | None
    prices: Prices
    usage: Usage
    usd: float | None
    unpriced: list[str]
    """Kinds of tokens that are not in `usd`."""

    @classmethod
    def of(cls, directory: Path) -> Spent:
        """Raises `BadInput` if its config cannot be read."""
        facts, row = read_facts(directory), meter.last(directory)
        file = directory / "config.yaml"
        settings = from_saved(read_yaml(file), str(file))
        prices = in_use(vars(settings.prices), settings.model.name, hosted=False)
        service = settings.service
        usage, usd = Usage.of(row), row.get("usd")
        where = service.kind, service.base_url
        return cls(directory, facts, *where, prices, usage, usd, row.get("unpriced") or [])


@command("sft.cost")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.cost", __doc__)
    parser.add_argument("run", metavar="RUN|STUDY", help=f"{WORDS}; or the name of a study")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument(
        "--bill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask the provider what it has billed",
    )
    add_json(parser, "the sum, each run and the bill")
    options = parser.parse_args(argv)
    runs = [Spent.of(directory) for directory in _directories(options.run, options.uri)]
    away = [run for run in runs if run.kind != "local" and run.facts.get("sessions")]
    bill = _bill(away) if options.bill and away else None
    if options.json:
        print_json(as_json(runs, bill))
        return 0
    if len(runs) > 1:
        print("\n".join(_each(runs)), end="\n\n")
    print("\n".join(_sum(runs)))
    if isinstance(bill, Bill):
        used = reduce(add, (run.usage for run in away))
        print("\n".join(_beside(bill, used, [run.usd for run in away])))
    elif bill:
        print(bill)
    return 0


def as_json(runs: Sequence[Spent], bill: Bill | str | None) -> dict[str, Any]:
    """What is shown, as plain data; `bill` is the provider's, or why there is none."""
    known = [run.usd for run in runs if run.usd is not None]
    return {
        "usd": sum(known) if known else None,
        "tokens": reduce(add, (run.usage for run in runs), Usage()).to_json(),
        "seconds": sum(run.facts.get("seconds") or 0.0 for run in runs),
        "runs": [
            {
                "path": str(run.directory),
                "status": run.facts.get("status"),
                "usd": run.usd,
                "estimated_usd": (run.facts.get("estimate") or {}).get("usd"),
                "tokens": run.usage.to_json(),
                "seconds": run.facts.get("seconds"),
            }
            for run in runs
        ],
        "bill": {"tokens": bill.usage.to_json(), "usd": bill.usd, "unpriced": bill.unpriced}
        if isinstance(bill, Bill)
        else None,
        "no_bill": bill if isinstance(bill, str) else None,
    }


def _directories(word: str, uri: str | None) -> list[Path]:
    """The run directories of a run or of a study. Raises `BadInput`."""
    for folder in (SWEEPS / word, Path(word)):
        if folder.is_dir() and not (folder / "run.json").exists():
            if found := list(find_runs([folder])):
                return sorted(found, key=lambda path: (len(path.name), path.name))
    found_run = find(word, uri)
    if found_run.directory is None:
        raise BadInput(
            f"{word}: its run directory, which says what was used, is not on this machine; MLflow "
            "has the sum as the metric cost/usd"
        )
    return [found_run.directory]


def _each(runs: Sequence[Spent]) -> list[str]:
    rows = [["run", "state", "tokens trained", "USD"]]
    for run in runs:
        usd = "-" if run.usd is None else amount(run.usd, run.unpriced)
        rows.append([run.directory.name, str(run.facts.get("status")), f"{run.usage.train:,}", usd])
    return aligned(rows, right=True)


def _sum(runs: Sequence[Spent]) -> list[str]:
    """Tokens by kind, their price, and the estimate that was made before."""
    usage = reduce(add, (run.usage for run in runs), Usage())
    known = [run.usd for run in runs if run.usd is not None]
    seconds = sum(run.facts.get("seconds") or 0.0 for run in runs)
    all_prices = {run.prices for run in runs}
    prices = all_prices.pop() if len(all_prices) == 1 else Prices()
    rows = [["", "tokens", "USD per million", "USD"]]
    for kind in KINDS:
        rate, tokens = prices.rate(kind), getattr(usage, kind)
        each = (
            [NO_RATE if tokens else "", ""]
            if rate is None
            else [f"{rate:g}", dollars(tokens * rate / 1e6)]
        )
        rows.append([kind.replace("_", " "), f"{tokens:,}", *each])
    unpriced = [kind for run in runs for kind in run.unpriced]
    unpriced += ["all"] * (len(runs) - len(known))
    rows.append(["in all", "", "", amount(sum(known), unpriced) if known else NO_PRICE])
    estimates = [(run.facts.get("estimate") or {}).get("usd") for run in runs]
    before = [usd for usd in estimates if usd is not None]
    if known and len(before) == len(runs):
        rows.append(["estimated before", "", "", dollars(sum(before))])
    lines = [*aligned(rows, right=True), f"time: {duration(seconds)}"]
    sources = dict.fromkeys(run.prices.source for run in runs if run.prices.source)
    return [*lines, *(f"prices: {source}" for source in sources)]


def _bill(runs: Sequence[Spent]) -> Bill | str:
    """The provider's own of what these runs did; why there is none is a sentence."""
    import tinker

    sessions = [session for run in runs for session in run.facts["sessions"]]
    now = time.time()
    since = min(run.facts.get("started") or now for run in runs)
    until = max(run.facts.get("ended") or now for run in runs)
    base_url = runs[0].base_url

    def ask(begin: Any, end: Any) -> Any:
        return client.get_billing_usage(begin, end).result()

    try:
        asyncio.run(Service.reach(base_url))
        client = tinker.AdminClient(base_url=base_url, api_key=api_key(base_url))
        return of_sessions(ask, sessions, since, until)
    except (BadInput, tinker.TinkerError) as error:
        return f"the provider's bill: not to be had ({error})"


def _beside(bill: Bill, usage: Usage, costs: Sequence[float | None]) -> list[str]:
    if bill.usage == Usage():
        return ["the provider's bill: nothing yet of these sessions; it is some hours behind"]
    kinds = ", ".join(
        f"{getattr(bill.usage, kind):,} {kind.replace('_', ' ')} ({getattr(usage, kind):,} counted)"
        for kind in KINDS
        if getattr(bill.usage, kind) or getattr(usage, kind)
    )
    lines = [f"the provider's bill: {kinds} tokens"]
    if bill.usd is not None:
        ours = None if None in costs else sum(filter(None, costs))
        apart = f", {bill.usd / ours - 1:+z.1%} against what was counted" if ours else ""
        part = f"; {bill.unpriced} entries are not priced yet" if bill.unpriced else ""
        lines.append(f"  {dollars(bill.usd)}{apart}{part}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
