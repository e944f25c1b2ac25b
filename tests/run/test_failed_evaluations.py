"""An evaluation that fails costs its own numbers and nothing else."""

import pytest

from sft.errors import BadInput
from sft.evaluators import Prompt, SamplingEvaluator
from sft.record import rundir
from tests import faulty_service
from tests.failing_runs import Listen, go
from tests.test_evaluators import CountCalls
from tests.test_train import chats, make_config, run  # noqa: F401 - fixtures


class Raising:
    name = "mine"

    async def __call__(self, sampling_client):
        raise ZeroDivisionError("for the test")


def test_an_evaluator_that_raises_costs_its_own_numbers_alone(make_config):  # noqa: F811
    listen = Listen()
    config = make_config(evaluator_builders=[Raising, lambda: CountCalls("other")])
    result = run(config, hooks=[listen])
    assert result.status == "FINISHED", result.error
    assert result.last["eval/other"] == 2 and "eval/nll" in result.last
    failed = [(f.step, f.name, f.error) for f in result.failed_evaluations]
    assert failed == [(s, "mine", "ZeroDivisionError: for the test") for s in (0, 5)]
    assert sum("evaluation 'mine'" in text for text in listen.messages) == 2
    recorded = rundir.read_facts(result.directory)["failed_evaluations"]
    assert [entry["name"] for entry in recorded] == ["mine", "mine"]


@pytest.mark.parametrize("value", ["abc", None, [1.0]])
def test_a_metric_that_is_no_number_costs_its_evaluation_alone(stub, value):
    make, _ = stub
    result = go(make(evaluator_builders=[lambda: Returning({"eval/mine": value})]))
    assert result.status == "FINISHED", result.error
    assert "eval/mine: expected a number" in result.failed_evaluations[0].error
    assert "eval/nll" in result.last


def test_numbers_of_other_kinds_are_written_as_plain_ones(stub):
    import numpy as np

    make, _ = stub
    result = go(make(evaluator_builders=[lambda: Returning({"eval/mine": np.float32(0.5)})]))
    assert result.status == "FINISHED" and result.last["eval/mine"] == 0.5


def test_an_evaluator_that_calls_its_input_bad_or_cannot_reach_its_judge_ends_no_run(stub):
    import httpx
    import tinker

    elsewhere = httpx.Request("POST", "http://judge.invalid/api/v1/asample")
    for error in (BadInput("no such judge"), tinker.APIConnectionError(request=elsewhere)):
        make, _ = stub
        name = type(error).__name__
        config = make(
            evaluator_builders=[lambda e=error: Returning(e)], log_path=f"{make().log_path}-{name}"
        )
        listen = Listen()
        result = go(config, hooks=[listen])
        assert result.status == "FINISHED", result.error
        assert {f.name for f in result.failed_evaluations} == {"returning"}
        assert not any("was lost" in text for text in listen.messages)


class Returning:
    name = "returning"

    def __init__(self, found):
        self.found = found

    async def __call__(self, sampling_client):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_a_prompt_beyond_the_context_costs_its_evaluation_alone(make_config):  # noqa: F811
    def build():
        return SamplingEvaluator([Prompt([5] * 600, "long")], tokenizer=None, stop=[], name="long")

    result = run(make_config(evaluator_builders=[build]))
    assert result.status == "FINISHED", result.error
    assert {f.name for f in result.failed_evaluations} == {"long"}
    assert "512" in result.failed_evaluations[0].error
    assert "eval/nll" in result.last


def test_a_service_that_cannot_sample_trains_all_the_same(stub):
    make, _ = stub
    faults = {"POST /api/v1/asample": 404}
    with faulty_service.before(make().base_url, faults) as faulty:
        result = go(make(base_url=faulty.url))
    assert result.status == "FINISHED", result.error
    assert [f.step for f in result.failed_evaluations] == [0, 10]
