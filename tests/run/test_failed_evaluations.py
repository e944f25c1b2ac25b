"""An evaluation that fails costs its own numbers and nothing else."""

import asyncio

import pytest

from sft.errors import BadInput
from sft.evaluators import Prompt, SamplingEvaluator
from sft.record import rundir
from sft.tracking.hook import MlflowHook
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


@pytest.mark.parametrize(
    "error", [SystemExit("no judge"), asyncio.CancelledError("a request of its own")]
)
def test_an_evaluator_that_leaves_costs_its_own_numbers_alone(stub, error):
    make, _ = stub
    builders = [lambda: Returning(error), lambda: CountCalls("other")]
    result = go(make(evaluator_builders=builders))
    assert result.status == "FINISHED", result.error
    assert result.last["eval/other"] == 2 and "eval/nll" in result.last
    assert [f.name for f in result.failed_evaluations] == ["returning", "returning"]
    assert str(error) in result.failed_evaluations[0].error


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("text", "expected a list of dicts, not str"),
        ([["a", "b"]], "expected a list of dicts"),
        ([{"a": 1}, {(1, 2): 3}], "a row is {(1, 2): 3}"),
        ([{"a": float}], None),
    ],
)
def test_a_table_that_is_none_is_said_once_and_costs_no_number(stub, table, words):
    class Tabled(Returning):
        def __init__(self):
            super().__init__({"eval/mine": 1.0})
            self.table = table

    make, _ = stub
    listen = Listen()
    hook = MlflowHook(f"sqlite:///{make().log_path}.db", "tables")
    result = go(make(evaluator_builders=[Tabled]), hooks=[listen, hook])
    assert result.status == "FINISHED" and result.last["eval/mine"] == 1.0
    said = [text for text in listen.messages if "'returning'" in text]
    if words is None:
        assert not said and result.tables["returning"] == table
    else:
        assert len(said) == 1 and words in said[0] and "returning" not in result.tables
    assert hook.flush() == []


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
        if isinstance(self.found, BaseException):
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
