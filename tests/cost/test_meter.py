"""A budget is never passed, and what was spent is known after a kill."""

import threading

from sft.cost import meter
from sft.cost.budget import Budget
from sft.cost.meter import Asked, Meter
from sft.cost.prices import Prices
from sft.cost.usage import Usage

RATES = Prices(train=1e6, prefill=1e6, sample=1e6)  # a dollar a token


def test_a_step_that_does_not_fit_is_not_paid_for(tmp_path):
    own = Budget("budget.usd", 10.0)
    counted = Meter(tmp_path, RATES, [own])
    assert counted.step(1, 6, due=0.0) is None
    assert counted.step(2, 5, due=0.0) is own
    assert (own.spent, own.held, counted.usage.train) == (6.0, 0.0, 6)


def test_an_evaluation_is_promised_its_money_before_the_step_that_it_follows(tmp_path):
    own = Budget("budget.usd", 10.0)
    counted = Meter(tmp_path, RATES, [own])
    assert counted.step(1, 4, due=5.0) is None
    assert counted.step(2, 2, due=0.0) is own
    Asked(counted, 1)(Usage(prefill=3))
    assert (own.spent, own.held) == (7.0, 2.0)
    counted.measured(1)
    assert own.held == 0.0 and counted.step(2, 3, due=0.0) is None


def test_two_runs_of_one_budget_never_pass_it_together(tmp_path):
    shared = Budget("hydra.sweeper.budget_usd", 100.0)

    def spend(name):
        (tmp_path / name).mkdir()
        counted = Meter(tmp_path / name, RATES, [shared])
        while counted.step(1, 3, due=0.0) is None:
            pass

    threads = [threading.Thread(target=spend, args=[str(n)]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.spent == 99.0 and shared.refused
    assert sum(meter.spent(tmp_path / str(n)) or 0 for n in range(4)) == 99.0


def test_if_one_of_two_budgets_is_short_the_other_keeps_its_money(tmp_path):
    own, shared = Budget("budget.usd", 5.0), Budget("hydra.sweeper.budget_usd", 2.0)
    assert Meter(tmp_path, RATES, [own, shared]).step(1, 3, due=0.0) is shared
    assert own.held == own.spent == 0.0


def test_a_later_life_of_a_run_adds_to_what_it_has_used(tmp_path):
    Meter(tmp_path, RATES).step(1, 4, due=0.0)
    again = Meter(tmp_path, Prices(train=2e6))
    again.step(1, 1, due=0.0)
    assert (again.usage.train, again.usd) == (5, 6.0)  # each at the prices of its time
    assert meter.spent(tmp_path) == 6.0


def test_without_prices_tokens_are_counted_and_no_money(tmp_path):
    counted = Meter(tmp_path, Prices())
    counted.step(1, 4, due=0.0)
    assert counted.usd is None and meter.last(tmp_path)["train"] == 4
