"""What a run has used so far: counted as it asks, and written down before a step is sent.

`usage.jsonl` has one object for each step that was asked for and each evaluation: all tokens so far
by kind, their price in USD, and the kinds that have none (`unpriced`). What an evaluation may use
at most is in it before the evaluation is asked for, and gives way to what it has used once it is
over: of a run that is killed in it never less is counted than was asked. A run that is killed and
resumed pays again for the steps that it trains again, so that its file is never cut, as
metrics.jsonl is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from sft.cost.budget import Budget
from sft.cost.prices import Prices, amount
from sft.cost.usage import NOTHING, Usage
from sft.files import json_lines

NAME = "usage.jsonl"


class Meter:
    """The usage of one run, through all of its lives.

    Args:
        folder: the run directory.
        prices: of the run.
        budgets: what it may spend of; each has to admit what the run asks for.
    """

    def __init__(self, folder: Path, prices: Prices, budgets: Sequence[Budget] = ()):
        self.prices = prices
        self.budgets = list(budgets)
        self._path = folder / NAME
        before = last(folder)
        self.usage = Usage.of(before)
        self._usd = float(before.get("usd") or 0.0)
        """Of earlier lives at the prices of then."""
        self.dearest: dict[str, float] = {}
        """USD of the dearest call so far of each evaluator, by its name."""
        self._promised: dict[int, float] = {}
        """USD held for the evaluation of a step, but for what of it is paid."""
        self._due: dict[int, Usage] = {}
        """What it has still to use at most, where its evaluators say it."""
        self._lock = threading.Lock()

    @property
    def usd(self) -> float | None:
        """What all of it costs so far; None if no price is known."""
        return self._usd if self.prices or self._usd else None

    @property
    def unpriced(self) -> list[str]:
        """The kinds of tokens used that have no price, so that `usd` is the least; none where
        nothing has a price."""
        return self.prices.missing(self.usage) if self.usd is not None else []

    def step(self, step: int, tokens: int, due: float, most: Usage = NOTHING) -> Budget | None:
        """Pay for a step of `tokens`, and promise `due` USD to the evaluation behind it, which is
        that of `step` and uses `most` at most. If a budget does not hold both, nothing is paid and
        that one is returned."""
        usage = Usage(train=tokens)
        price = self.prices.usd(usage)
        if short := self._hold(step, price + due, most):
            return short
        self._spend(usage, price, step)
        self.write()
        return None

    def promise(self, step: int, usd: float, most: Usage = NOTHING) -> Budget | None:
        """Hold `usd` for the evaluation of `step`, which uses `most` at most; the budget that does
        not have them, if any."""
        short = self._hold(step, usd, most)
        if short is None and (usd or most != NOTHING):
            self.write()
        return short

    def _hold(self, step: int, usd: float, most: Usage) -> Budget | None:
        held: list[Budget] = []
        for budget in self.budgets:
            if not budget.hold(usd):
                for other in held:
                    other.release(usd)
                return budget
            held.append(budget)
        with self._lock:
            self._promised[step] = self._promised.get(step, 0.0) + usd
            self._due[step] = self._due.get(step, NOTHING) + most
        return None

    def answered(self, step: int, usage: Usage) -> float:
        """Pay for an answered request of the evaluation of `step`; its price in USD. Called from
        any thread."""
        usd = self.prices.usd(usage)
        self._spend(usage, usd, step)
        with self._lock:
            self._due[step] = self._due.get(step, NOTHING).without(usage)
        return usd

    def given_up(self, step: int) -> None:
        """The evaluation of `step` was ended on its way: what it had asked for is not known, so
        that all of it is paid."""
        with self._lock:
            usage, usd = self._due.pop(step, NOTHING), self._promised.get(step, 0.0)
        self._spend(usage, usd, step)

    def measured(self, step: int) -> None:
        """The evaluation of `step` is over: what is left of its promise is free again."""
        with self._lock:
            rest = self._promised.pop(step, 0.0)
            self._due.pop(step, None)
        for budget in self.budgets:
            budget.release(rest)
        self.write()

    def break_promises(self) -> None:
        """A new attempt begins: nothing of what was under way will be asked for any more."""
        for step in list(self._promised):
            self.measured(step)

    def write(self) -> None:
        """Append what was used so far to usage.jsonl, and what evaluations on their way may use."""
        with self._lock:
            usage = reduce(add, self._due.values(), self.usage)
            held = sum(self._promised.values())
        usd = None if self.usd is None else self.usd + held
        row: dict[str, Any] = {"timestamp": int(time.time() * 1000), **usage.to_json(), "usd": usd}
        if self.unpriced:
            row["unpriced"] = self.unpriced
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _spend(self, usage: Usage, usd: float, step: int) -> None:
        with self._lock:
            self.usage += usage
            self._usd += usd
            promised = min(usd, self._promised.get(step, 0.0))
            if promised:
                self._promised[step] -= promised
        for budget in self.budgets:
            budget.pay(usd, promised)


class Asked:
    """What one evaluation asks, counted as it is answered."""

    def __init__(self, meter: Meter, step: int):
        self.usd = 0.0
        self._meter = meter
        self._step = step

    def __call__(self, usage: Usage) -> None:
        self.usd += self._meter.answered(self._step, usage)

    def learn(self, name: str, before: float) -> None:
        """A call of the evaluator `name` is over, which began when `before` USD were asked for."""
        self._meter.dearest[name] = max(self._meter.dearest.get(name, 0.0), self.usd - before)


def spent(folder: Path) -> float | None:
    """USD that a run has cost so far; None if no price was known."""
    usd = last(folder).get("usd")
    return None if usd is None else float(usd)


def spent_in_words(folder: Path) -> str:
    """The same as text, `-` for none."""
    usd = spent(folder)
    return "-" if usd is None else amount(usd, last(folder).get("unpriced") or ())


def last(folder: Path) -> dict[str, Any]:
    """The last row of a run's usage.jsonl; empty if there is none."""
    path = folder / NAME
    rows = json_lines(path) if path.exists() else []
    return rows[-1] if rows else {}
