"""What a run is estimated to cost, what it counts, and what a service that bills it has counted."""

import asyncio

import pytest

from sft import train
from sft.cost import meter
from sft.errors import BadInput
from sft.evaluation.answers import Prompt
from sft.evaluators import SamplingEvaluator
from sft.files import read_yaml
from sft.record import checkpoints, metrics, rundir
from sft.run import training
from sft.types import DataStatistics
from tests.cost.billing import PRICES, billing_service
from tests.local.stub import KEY, MODEL
from tests.run.test_pipeline import Constant


class Counted(Constant):
    """Batches of the same sequence of 64 tokens, which are counted."""

    @property
    def statistics(self):
        datums = self.batches * self.batch_size
        return DataStatistics(datums, datums, 0, 0, 64 * datums, 63 * datums, 0)

    def num_tokens(self, index):
        return 63 * self.batch_size


class Words:
    def decode(self, tokens, skip_special_tokens=False):
        return " ".join(map(str, tokens))


def answers():
    return SamplingEvaluator([Prompt([1, 2, 3], "?")], Words(), [0], max_tokens=5)


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    with billing_service(tmp_path / "service") as both:
        yield both


@pytest.fixture
def config(tmp_path, service):
    def make(**changes):
        fields = dict(
            log_path=str(tmp_path / "run"),
            model_name=MODEL,
            dataset_builder=lambda: (Counted(10, 2), Counted(1, 3)),
            infrequent_evaluator_builders=[answers],
            eval_every=4,
            save_every=2,
            prices=PRICES,
            base_url=service[0],
        )
        return train.Config(**(fields | changes))

    return make


def go(config, **options):
    return asyncio.run(training.train(config, settings={"run_name": "counted"}, **options))


def test_estimate_meter_and_bill_of_a_whole_run_agree(config, service, tmp_path):
    result = go(config())
    said = rundir.read_facts(tmp_path / "run")["estimate"]["usd"]
    assert result.status == "FINISHED" and result.usd == pytest.approx(service[1].usd)
    assert said == pytest.approx(service[1].usd, rel=0.01)
    used = meter.last(tmp_path / "run")
    assert {kind: used[kind] for kind in ("train", "prefill", "sample")} == dict(service[1].billed)


def test_the_cost_so_far_is_in_every_row_and_the_whole_cost_in_the_last(config, tmp_path):
    result = go(config())
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    costs = [row["cost/usd"] for row in rows]
    assert len(rows) == 11 and costs == sorted(costs) and costs[-1] == result.usd


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_budget_ends_a_run_with_a_checkpoint_before_it_is_passed(
    config, service, tmp_path, share, ahead
):
    whole = 10 * 2 * 63 * PRICES["train"] / 1e6
    result = go(config(budget_usd=share * whole, submit_ahead=ahead))
    assert result.status == "KILLED" and result.reason.startswith("budget.usd=")
    assert 0 < service[1].usd <= share * whole
    (last,) = checkpoints.read(tmp_path / "run" / "checkpoints.jsonl")[-1:]
    assert last.step == result.steps


def test_a_run_that_its_budget_ended_goes_on_with_a_larger_one(config, service):
    first = go(config(budget_usd=0.7))
    assert first.status == "KILLED"
    again = go(config(budget_usd=5.0))
    assert again.status == "FINISHED" and again.steps == 10
    assert again.usd == pytest.approx(service[1].usd) and again.usd > first.usd


def test_a_run_goes_on_with_another_budget_and_with_nothing_else(config):
    first = go(config(budget_usd=0.7))
    assert first.status == "KILLED"
    with pytest.raises(BadInput, match=r"different config \(prices\)"):
        go(config(budget_usd=5.0, prices=PRICES | {"train": 1.0}))


def test_what_a_run_was_billed_before_it_was_cut_short_stays_spent(config, service, tmp_path):
    go(config(budget_usd=0.7))
    path = tmp_path / "run"
    spent = meter.spent(path)
    for name in ("metrics.jsonl", "checkpoints.jsonl"):  # as if it had been killed before a save
        (path / name).write_text("")
    again = go(config(budget_usd=5.0))
    assert again.usd > spent + 10 * 2 * 63 * PRICES["train"] / 1e6
    assert again.usd == pytest.approx(service[1].usd)


def test_a_budget_that_holds_no_step_is_refused_before_anything_is_billed(
    config, service, tmp_path
):
    with pytest.raises(BadInput, match="budget.usd: 0.01 USD do not hold the first evaluation"):
        go(config(budget_usd=0.01))
    assert service[1].usd == 0 and not (tmp_path / "run").exists()


def test_a_budget_without_a_price_is_refused_and_the_missing_keys_are_named(config):
    with pytest.raises(BadInput, match=r"no published price known.*prices\.sample=…"):
        go(config(budget_usd=5.0, prices={"train": 1.0, "prefill": 1.0}))


def test_without_a_price_nothing_is_said_to_have_cost_something(config, tmp_path):
    result = go(config(prices={}))
    assert result.status == "FINISHED" and result.usd is None
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert not any("cost/usd" in row for row in rows)
    assert rundir.read_facts(tmp_path / "run")["usage"]["train"] == 10 * 2 * 63


def test_who_confirms_hears_the_estimate_before_anything_is_made(config, service, tmp_path):
    heard = []

    async def refuse(estimate):
        heard.append(estimate)
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        go(config(), confirm=refuse)
    (estimate,) = heard
    assert set(estimate.parts) == {"training", "evaluations", "answers"}
    assert service[1].usd == 0 and not (tmp_path / "run").exists()


def test_an_evaluator_that_does_not_say_what_it_uses_is_named_and_metered(config, service):
    async def quiz(client):
        import tinker

        await client.sample(
            prompt=tinker.ModelInput.from_ints([1, 2, 3, 4]),
            num_samples=2,
            sampling_params=tinker.SamplingParams(max_tokens=3),
        )
        return {"eval/quiz/score": 1.0}

    heard = []

    async def listen(estimate):
        heard.append(estimate)

    result = go(config(evaluator_builders=[lambda: quiz]), confirm=listen)
    assert heard[0].unknown == ("the evaluation 'quiz'",)
    assert "not in it: the evaluation 'quiz'" in heard[0].sentence()
    # Of two samples of one prompt the second finds it in the cache; the stub reads it once.
    cached = 4 * 4 * PRICES["cached_prefill"] / 1e6
    assert result.usd == pytest.approx(service[1].usd + cached)


def test_the_prices_that_were_used_are_kept_with_the_run_and_where_they_are_from(config, tmp_path):
    go(config(budget_usd=0.7, prices=PRICES | {"source": "our price list"}))
    saved = read_yaml(tmp_path / "run" / "config.yaml")
    assert saved["prices"] == PRICES | {"source": "our price list"}
    assert rundir.read_facts(tmp_path / "run")["estimate"]["usd"] > 0.7
