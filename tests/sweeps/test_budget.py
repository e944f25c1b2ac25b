"""A sweep's budget in money: never passed, and a larger one goes on where it ended."""

import pytest

from sft.cost import meter
from sft.record import checkpoints
from sft.service.child import api_key
from sft.sweeps.scheduling.expected import share
from sft.sweeps.study import storage

from .conftest import study_of

RATES = ["prices.train=1000", "prices.prefill=300", "prices.sample=2000"]
FOUR = ["lr=1e-3,3e-3,1e-2,3e-2", "hydra.sweeper.study_name=m", "hydra.sweeper.n_jobs=2"]


@pytest.fixture(autouse=True)
def key(monkeypatch, local_service):
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))


def spent() -> float:
    return sum(meter.spent(path.parent) for path in (storage.ROOT / "m").glob("*/usage.jsonl"))


def values_of(name: str) -> dict[float, list[float]]:
    return {trial.params["lr"]: trial.values for trial in study_of(name).trials}


@pytest.mark.slow
def test_a_budget_ends_a_sweep_before_it_is_passed_and_a_larger_one_goes_on(sweep, capsys):
    assert sweep(*FOUR, *RATES, "cost.confirm_above_usd=null") == 0
    whole = spent()
    free = values_of("m")
    assert capsys.readouterr().out.count("complete;") == 4
    (storage.ROOT / "m").rename(storage.ROOT / "whole")

    limit = 0.6 * whole
    assert sweep(*FOUR, *RATES, f"hydra.sweeper.budget_usd={limit}", "--yes") == 0
    said = capsys.readouterr().out
    assert 0 < spent() <= limit
    assert "hydra.sweeper.budget_usd=" in said and "to go on: python -m sft --multirun" in said
    stopped = [t for t in study_of("m").trials if t.user_attrs.get("short")]
    assert stopped and all(not t.state.is_finished() for t in stopped)
    begun = [trial for trial in stopped if trial.user_attrs["steps"]]
    for trial in begun:
        for record in checkpoints.read(storage.ROOT / f"m/{trial.number}/checkpoints.jsonl")[-1:]:
            assert record.step == trial.user_attrs["steps"]

    assert sweep(*FOUR, *RATES, f"hydra.sweeper.budget_usd={2 * whole}", "--yes") == 0
    assert spent() <= 2 * whole
    assert values_of("m") == free


@pytest.mark.slow
def test_the_report_sets_value_against_money(sweep, capsys):
    from sft.sweeps import report

    assert sweep("lr=1e-3,1e-2", "hydra.sweeper.study_name=m", *RATES, "--yes") == 0
    capsys.readouterr()
    assert report.main(["m"]) == 0
    said = capsys.readouterr().out
    assert "cost" in said.splitlines()[0].split() and f"cost ${spent():.2f}" in said
    assert (storage.ROOT / "m/report/cost.png").exists()


def test_what_a_sweep_costs_is_said_and_asked_before_a_study_is_made(sweep, capsys):
    assert sweep(*FOUR, *RATES, "cost.confirm_above_usd=0.1") == 2
    assert "more than cost.confirm_above_usd=0.1" in capsys.readouterr().err
    assert not (storage.ROOT / "m").exists()


def test_a_budget_without_prices_is_refused(sweep, capsys):
    assert sweep(*FOUR, "hydra.sweeper.budget_usd=5") == 2
    assert "hydra.sweeper.budget_usd: of tiny there is no published" in capsys.readouterr().err


def test_what_pausing_and_pruning_spare_is_reckoned_with():
    assert share("asha", "none", 3, None, 20) < 1 > share("freeze_thaw", "none", 3, None, 20)
    assert share("none", "asha", 3, 0.1, 20) < 1 == share("none", "median", 3, 0.1, 20)
