"""`metric` and `direction`: one choice for the best checkpoint, early stopping and sweeps."""

import math
from dataclasses import dataclass

import pytest

from sft.errors import BadInput
from sft.evaluators import EvaluatorBuilder
from sft.files import read_yaml
from sft.past import choosing
from sft.past.find import find
from sft.record import metrics
from tests.failing_runs import Listen
from tests.test_train import chats, make_config, run  # noqa: F401 - fixtures

FIRST = "eval/quiz/first"


@dataclass
class Quiz(EvaluatorBuilder):
    """How likely a token is behind another; or, with `always`, a number that never changes."""

    always: float | None = None
    metric: str = FIRST
    declared: bool = True

    def __call__(self):
        answers = Answers(self.always, (self.metric,))
        return answers if self.declared else Undeclared(answers)


@dataclass
class Answers:
    always: float | None
    metrics: tuple[str, ...]
    name: str = "quiz"

    async def __call__(self, sampling_client):
        import tinker

        logprobs = await sampling_client.compute_logprobs(tinker.ModelInput.from_ints([65, 66]))
        [metric] = self.metrics
        return {metric: logprobs[1] if self.always is None else self.always}


class Undeclared:
    """An evaluator that does not say beforehand what it measures."""

    name = "quiz"

    def __init__(self, evaluator):
        self.evaluator = evaluator

    async def __call__(self, sampling_client):
        return await self.evaluator(sampling_client)


@pytest.fixture
def quizzed(make_config):  # noqa: F811 - the fixture
    def make(always=None, measures=None, declared=True, **changes):
        fields = {"metric": FIRST, "eval_every": 1, "save_every": 1} | changes
        quiz = Quiz(always, measures or fields["metric"], declared)
        return make_config(evaluator_builders=[quiz], **fields)

    return make


@pytest.mark.parametrize("direction, choose", [("maximize", max), ("minimize", min)])
def test_the_best_checkpoint_is_the_best_in_the_metric_that_is_named(quizzed, direction, choose):
    result = run(quizzed(direction=direction))
    rows = metrics.read(result.directory / "metrics.jsonl")
    values = {row["step"]: row[FIRST] for row in rows if row["step"] > 0 and FIRST in row}
    assert len(set(values.values())) == 5
    assert result.best.step == choose(values, key=values.__getitem__)


@pytest.mark.parametrize("direction, choose", [("maximize", max), ("minimize", min)])
def test_the_best_in_the_metric_stays_when_older_checkpoints_go(quizzed, direction, choose):
    result = run(quizzed(direction=direction, keep_checkpoints=1, num_epochs=2))
    rows = metrics.read(result.directory / "metrics.jsonl")
    values = {row["step"]: row[FIRST] for row in rows if row["step"] > 0 and FIRST in row}
    assert choose(values, key=values.__getitem__) in [r.step for r in result.checkpoints]
    assert len(result.checkpoints) <= 4


@pytest.mark.parametrize("direction, word", [("maximize", "higher"), ("minimize", "lower")])
def test_early_stopping_waits_for_the_metric(quizzed, direction, word):
    config = quizzed(0.5, direction=direction, early_stopping_patience=2, num_epochs=8)
    result = run(config)
    assert result.reason == f"early stopping: {FIRST} no {word} for 2 evaluations"
    assert result.steps < 40


def test_a_metric_that_nothing_measures_is_refused_with_the_nearest(quizzed, tmp_path):
    with pytest.raises(BadInput, match="metric: no evaluation measures 'eval/quiz/frist'; did "):
        run(quizzed(measures=FIRST, metric="eval/quiz/frist"))
    assert not (tmp_path / "run").exists()


KNOWN = [("eval/quiz/accuracy", "maximize", max), ("eval/quiz/nll", "minimize", min)]


@pytest.mark.parametrize("metric, direction, choose", KNOWN)
def test_whether_less_or_more_is_better_follows_from_a_metrics_name(
    quizzed, metric, direction, choose
):
    result = run(quizzed(metric=metric))
    rows = metrics.read(result.directory / "metrics.jsonl")
    values = {row["step"]: row[metric] for row in rows if row["step"] > 0 and metric in row}
    assert result.best.step == choose(values, key=values.__getitem__)
    assert read_yaml(result.directory / "config.yaml")["direction"] == direction


def test_a_direction_against_the_metrics_name_is_taken_and_said(quizzed):
    listen = Listen()
    result = run(quizzed(metric="eval/quiz/accuracy", direction="minimize"), hooks=[listen])
    values = [record.evaluation["eval/quiz/accuracy"] for record in result.checkpoints]
    assert result.best.evaluation["eval/quiz/accuracy"] == min(values)
    assert any("more eval/quiz/accuracy is better as a rule" in m for m in listen.messages)


def test_a_metric_whose_name_tells_no_direction_is_asked_for_one(quizzed, tmp_path):
    with pytest.raises(BadInput, match="direction: the name of metric=eval/quiz/first does not"):
        run(quizzed())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("always", "metric", "words"),
    [
        (
            0.5,
            "eval/quiz/frist",
            f"measured at step 0; measured: eval/nll, eval/bpb, {FIRST}; did you mean '{FIRST}'",
        ),
        (0.5, f"{FIRST}_stderr", "was not measured at step 0"),
        (math.nan, FIRST, "is nan at step 0"),
        (math.inf, FIRST, "is inf at step 0"),
    ],
)
def test_a_metric_that_no_evaluation_gives_a_value_of_is_said_at_the_first_and_at_the_last(
    quizzed, always, metric, words
):
    listen = Listen()
    chosen = {"metric": metric, "direction": "maximize", "early_stopping_patience": 2}
    result = run(quizzed(always, FIRST, declared=False, **chosen), hooks=[listen])
    assert result.status == "FINISHED" and result.steps == 5 and result.best is None
    said = [text for text in listen.messages if text.startswith(f"metric={metric} ")]
    assert len(said) == 2 and words in said[0] and "at step 5" in said[1]
    with pytest.raises(BadInput, match=f"has a number for its metric, {metric}.*eval/nll"):
        choosing.choose(find(str(result.directory)), "best")


def test_a_metric_of_training_is_refused_where_evaluators_do_not_say_what_they_measure(
    quizzed, tmp_path
):
    with pytest.raises(BadInput, match="metric: no evaluation measures 'train/nll'; there will be"):
        run(quizzed(measures=FIRST, declared=False, metric="train/nll"))
    assert not (tmp_path / "run").exists()
