"""What a run has used so far: counted as it asks, and written down before a step is sent.

`usage.jsonl` has one object for each step that was asked for and each evaluation: all tokens so far
by kind, and their price in USD. A run that is killed and resumed pays again for the steps that it
trains again, so that its file is never cut, as metrics.jsonl is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.cost.budget import Budget
from sft.cost.prices import Prices
from sft.cost.usage import Usage
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
        self._lock = threading.Lock()

    @property
    def usd(self) -> float | None:
        """What all of it costs so far; None if no price is known."""
        return self._usd if self.prices or self._usd else None

    def step(self, step: int, tokens: int, due: float) -> Budget | None:
        """Pay for a step of `tokens`, and promise `due` USD to the evaluation behind it, which is
        that of `step`. If a budget does not hold both, nothing is paid and that one is returned."""
        usage = Usage(train=tokens)
        price = self.prices.usd(usage)
        if short := self.promise(step, price + due):
            return short
        self._spend(usage, price, step)
        self.write()
        return None

    def promise(self, step: int, usd: float) -> Budget | None:
        """Hold `usd` for what is asked at `step`; the budget that does not have them, if any."""
        held: list[Budget] = []
        for budget in self.budgets:
            if not budget.hold(usd):
                for other in held:
                    other.release(usd)
                return budget
            held.append(budget)
        with self._lock:
            self._promised[step] = self._promised.get(step, 0.0) + usd
        return None

    def answered(self, step: int, usage: Usage) -> float:
        """Pay for an answered request of the evaluation of `step`; its price in USD. Called from
        any thread."""
        usd = self.prices.usd(usage)
        self._spend(usage, usd, step)
        return usd

    def measured(self, step: int) -> None:
        """The evaluation of `step` is over: what is left of its promise is free again."""
        with self._lock:
            rest = self._promised.pop(step, 0.0)
        for budget in self.budgets:
            budget.release(rest)
        self.write()

    def break_promises(self) -> None:
        """A new attempt begins: nothing of what was under way will be asked for any more."""
        for step in list(self._promised):
            self.measured(step)

    def write(self) -> None:
        """Append what was used so far to usage.jsonl."""
        row = {"timestamp": int(time.time() * 1000), **self.usage.to_json(), "usd": self.usd}
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


def last(folder: Path) -> dict[str, Any]:
    """The last row of a run's usage.jsonl; empty if there is none."""
    path = folder / NAME
    rows = json_lines(path) if path.exists() else []
    return rows[-1] if rows else {}
