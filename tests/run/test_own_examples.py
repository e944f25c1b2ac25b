"""Examples of an evaluator of one's own are kept if they are of the metric that it returns."""

import pytest

from sft.evaluators import Examples
from sft.record.examples import ExamplesFolder
from tests.failing_runs import Listen, go

METRIC = "eval/own"


class Own:
    name = "own"

    def __init__(self, value, examples):
        self.value, self.examples = value, examples

    async def __call__(self, sampling_client):
        return {METRIC: self.value}


def measured(stub, value, examples):
    """The run's result, what it told, and the examples of the metric that were kept."""
    make, _ = stub
    listen = Listen()
    result = go(make(evaluator_builders=[lambda: Own(value, examples)]), hooks=[listen])
    assert result.status == "FINISHED", result.error
    assert not result.failed_evaluations and result.last[METRIC] == value
    said = [text for text in listen.messages if "'own'" in text]
    return result, said, ExamplesFolder(result.directory).read(0).get(METRIC)


def test_examples_whose_quotient_is_the_metric_are_kept(stub):
    result, said, kept = measured(stub, 0.667, {METRIC: Examples([1, 0, 1], [1, 1, 1], "d")})
    assert list(kept.totals) == [1, 0, 1] and f"{METRIC}_stderr" in result.last
    assert not said


@pytest.mark.parametrize(
    ("value", "examples", "words"),
    [
        (50.0, {METRIC: Examples([1, 0], [1, 1], "d")}, "they give 0.5"),
        (1.0, {METRIC: Examples([2, -1], [2, -1], "d")}, "a weight is below 0"),
        (1.0, {METRIC: Examples([1, float("nan")], [1, 1], "d")}, "not finite"),
        (1.0, {METRIC: Examples([1, "one"], [1, 1], "d")}, "no number"),
        (1.0, {METRIC: Examples([[1, 2], [1, 2]], [1, 1], "d")}, "one total and one weight"),
        (1.0, {METRIC: Examples([], [], "d")}, "they give nan"),
        (1.0, {"eval/other": Examples([1, 1], [1, 1], "d")}, "the metric was not returned"),
        (1.0, {METRIC: [1.0, 1.0]}, "expected sft.evaluators.Examples, not list"),
        (1.0, [1.0, 1.0], "expected sft.evaluators.Examples by metric, not list"),
    ],
)
def test_examples_that_are_not_of_the_metric_are_not_kept_and_said_once(
    stub, value, examples, words
):
    result, said, kept = measured(stub, value, examples)
    assert kept is None and not [name for name in result.last if name.endswith("own_stderr")]
    assert len(said) == 1 and words in said[0]
