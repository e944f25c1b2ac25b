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


def test_an_evaluation_is_written_down_at_its_most_before_it_is_asked_and_as_it_was_after(tmp_path):
    counted = Meter(tmp_path, RATES)
    most = Usage(prefill=8, sample=2)
    counted.step(1, 4, due=10.0, most=most)
    Asked(counted, 1)(Usage(prefill=3, sample=1))
    counted.step(2, 4, due=0.0)
    killed = meter.last(tmp_path)
    assert (killed["prefill"], killed["sample"], killed["usd"]) == (8, 2, 18.0)
    assert counted.usd == 12.0  # what is known, in metrics.jsonl
    counted.measured(1)
    over = meter.last(tmp_path)
    assert (over["prefill"], over["sample"], over["usd"]) == (3, 1, 12.0)


def test_the_first_evaluation_too_is_written_down_before_it_is_asked(tmp_path):
    Meter(tmp_path, RATES).promise(0, 5.0, Usage(prefill=5))
    assert meter.last(tmp_path)["prefill"] == 5 and meter.spent(tmp_path) == 5.0


def test_an_evaluation_that_is_given_up_is_paid_as_a_whole(tmp_path):
    own = Budget("budget.usd", 20.0)
    counted = Meter(tmp_path, RATES, [own])
    counted.step(1, 4, due=10.0, most=Usage(prefill=10))
    Asked(counted, 1)(Usage(prefill=3))
    counted.given_up(1)
    counted.measured(1)
    assert (own.spent, own.held, counted.usage.prefill, meter.spent(tmp_path)) == (14.0, 0, 10, 14)


def test_a_budget_that_is_short_of_an_evaluation_leaves_nothing_of_it_written_down(tmp_path):
    counted = Meter(tmp_path, RATES, [Budget("budget.usd", 6.0)])
    counted.step(1, 2, due=0.0)
    assert counted.promise(1, 5.0, Usage(prefill=5)) is not None
    counted.write()
    assert meter.last(tmp_path)["prefill"] == 0


def test_tokens_without_a_price_make_the_sum_the_least(tmp_path):
    counted = Meter(tmp_path, Prices(prefill=1e6))
    counted.step(1, 4, due=0.0)
    assert counted.unpriced == ["train"] and meter.spent_in_words(tmp_path) == "at least $0.00"
