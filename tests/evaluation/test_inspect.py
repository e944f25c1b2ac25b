"""Tasks of Inspect AI, made here: its process asks for answers, its scorers say what they are."""

import asyncio
import importlib.util
import sys

import pytest

from sft.errors import BadInput, Sentence
from sft.evaluation.harnesses import inspect_log
from sft.evaluators import InspectBuilder
from sft.models.tokenizers import load_tokenizer
from sft.past.find import find
from sft.types import ChatDatasetBuilderCommonConfig
from tests.evaluation.says import Says
from tests.evaluation.test_choice import run
from tests.finished_run import finished_run

needs_inspect = pytest.mark.skipif(
    importlib.util.find_spec("inspect_ai") is None,
    reason="Inspect AI is not installed: pip install inspect-ai -c constraints.txt",
)
TASK = """
from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate, solver, system_message, use_tools
from inspect_ai.tool import tool

SUMS = [Sample(input="1 + 1?", target="2"), Sample(input="1 + 2?", target="3")]

@task
def sums(last: str = "3"):
    samples = [SUMS[0], Sample(input="1 + 2?", target=last)]
    return Task(dataset=samples, solver=[system_message("Add."), generate()], scorer=includes())

@task
def judged_twice():
    print("words on standard output")
    return Task(dataset=SUMS, solver=generate(stop_seqs=[" so"]), scorer=[includes(), match()])

@task
def repeated():
    epochs = Epochs(2, ["mean", "max"])
    return Task(dataset=SUMS, solver=generate(), scorer=includes(), epochs=epochs)

@task
def seeded():
    config = GenerateConfig(temperature=2.0, max_tokens=5)
    return Task(dataset=SUMS, solver=generate(), scorer=includes(), config=config, epochs=2)

@tool
def add():
    async def execute(a: int, b: int):
        \"\"\"Add.

        Args:
            a: One.
            b: Other.
        \"\"\"
        return a + b
    return execute

@task
def with_tools():
    return Task(dataset=SUMS, solver=[use_tools(add()), generate()], scorer=includes())

@task
def with_logprobs():
    return Task(dataset=SUMS, solver=generate(logprobs=True), scorer=includes())

@solver
def dies():
    async def solve(state, generate):
        import os
        os._exit(3)
    return solve

@task
def dying():
    return Task(dataset=SUMS, solver=dies(), scorer=includes())
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_task.py"
    path.write_text(TASK)
    return path


def builder(tiny_model, task, **options):
    return InspectBuilder(ChatDatasetBuilderCommonConfig(str(tiny_model)), str(task), **options)


def measured(tiny_model, task, text="It is 2.", **options):
    evaluator = builder(tiny_model, task, **options)()
    client = Says(text, load_tokenizer(str(tiny_model)))
    return asyncio.run(evaluator(client)), evaluator, client


@needs_inspect
def test_a_task_is_answered_by_the_sampling_client_with_the_runs_renderer(tiny_model, file):
    found, evaluator, client = measured(tiny_model, f"{file}@sums", max_tokens=9)
    assert found == {"eval/inspect/accuracy": 0.5, "eval/inspect/accuracy_stderr": 0.5}
    assert set(evaluator.metrics) == set(found)
    assert evaluator.examples["eval/inspect/accuracy"].value == found["eval/inspect/accuracy"]
    assert list(evaluator.examples["eval/inspect/accuracy"].totals) == [1.0, 0.0]
    assert evaluator.table[1]["answer"] == "It is 2." and evaluator.table[1]["reference"] == "3"
    prompt, params = client.asked[0]
    assert prompt.startswith("<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1 + ")
    assert prompt.endswith("<|im_start|>assistant\n")
    assert (params.max_tokens, params.temperature) == (9, 0.0)


@needs_inspect
def test_arguments_a_limit_and_a_name_of_its_own_are_taken(tiny_model, file):
    options = {"task_args": {"last": "2"}, "name": "sums"}
    assert measured(tiny_model, f"{file}@sums", **options)[0]["eval/sums/accuracy"] == 1.0
    found, evaluator, _ = measured(tiny_model, f"{file}@sums", limit=1)
    assert len(evaluator.table) == 1 and found["eval/inspect/accuracy"] == 1.0


@needs_inspect
def test_several_scorers_have_metrics_of_their_own_and_a_task_may_stop_an_answer(tiny_model, file):
    text = "2 so it is 3."
    found, evaluator, _ = measured(tiny_model, f"{file}@judged_twice", text)
    assert found["eval/inspect/includes/accuracy"] == 0.5
    assert found["eval/inspect/match/accuracy"] == 0.5
    assert set(evaluator.metrics) == set(found)
    assert [row["answer"] for row in evaluator.table] == ["2", "2"]
    assert evaluator.table[0]["score includes"] == "C"


@needs_inspect
def test_several_reducers_have_metrics_of_their_own_that_are_not_known_before(tiny_model, file):
    found, evaluator, _ = measured(tiny_model, f"{file}@repeated")
    assert {"eval/inspect/includes_mean/accuracy", "eval/inspect/includes_max/accuracy"} <= set(
        found
    )
    assert not hasattr(evaluator, "metrics")
    for metric, examples in evaluator.examples.items():
        assert examples.value == found[metric] and len(examples.totals) == 2


@needs_inspect
def test_the_same_seed_gives_the_same_answers_from_the_service(local_service, tiny_model, file):
    def answers(seed):
        evaluator = builder(tiny_model, f"{file}@seeded", seed=seed)()
        run(evaluator, local_service)
        return [row["answer"] for row in evaluator.table]

    first = answers(1)
    assert len(set(first)) > 2 and answers(1) == first != answers(9)


@needs_inspect
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("with_tools", "the task gives its model tools"),
        ("with_logprobs", "the task sets logprobs"),
        ("dying", "the process of Inspect AI ended without a result"),
    ],
)
def test_a_task_that_cannot_be_measured_says_why(tiny_model, file, task, words):
    with pytest.raises(Sentence, match=words):
        measured(tiny_model, f"{file}@{task}")


@needs_inspect
def test_an_error_of_the_service_is_the_evaluations_error(tiny_model, file):
    class Broken:
        async def sample(self, **given):
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(builder(tiny_model, f"{file}@sums")()(Broken()))


@needs_inspect
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("my_task.py", "expected one task, not 7; name one of .*my_task.py@sums"),
        ("my_task.py@sum", "Task named 'sum' not found"),
        ("mine/unknown", "no inspect tasks|not found"),
    ],
)
def test_a_task_that_is_none_is_refused_before_anything_is_made(
    tiny_model, file, monkeypatch, task, words
):
    monkeypatch.chdir(file.parent)
    with pytest.raises(BadInput, match=f"evaluators.args.task: .*(?i:{words})"):
        builder(tiny_model, task)()


@needs_inspect
def test_a_file_of_several_tasks_is_refused_before_one_of_them_fails(tiny_model, file):
    file.write_text(f"{TASK}\n@task\ndef broken():\n    raise RuntimeError('of one task')\n")
    with pytest.raises(BadInput, match="expected one task, not 8; name one of .*@broken"):
        builder(tiny_model, file)()


@needs_inspect
def test_several_trials_of_one_process_run_tasks_side_by_side(tiny_model, file):
    client = Says("It is 2.", load_tokenizer(str(tiny_model)))
    evaluators = [builder(tiny_model, f"{file}@sums", name=name)() for name in ("one", "two")]

    async def both():
        return await asyncio.gather(*(evaluator(client) for evaluator in evaluators))

    one, two = asyncio.run(both())
    assert one["eval/one/accuracy"] == two["eval/two/accuracy"] == 0.5


@needs_inspect
def test_a_run_that_ends_early_ends_the_process_of_its_task(tiny_model, file):
    class Waits:
        async def sample(self, **given):
            asked.set()
            await asyncio.sleep(600)

    async def cancelled():
        task = asyncio.create_task(builder(tiny_model, f"{file}@sums")()(Waits()))
        await asyncio.wait_for(asked.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)

    asked = asyncio.Event()
    asyncio.run(cancelled())


@needs_inspect
def test_a_run_from_the_command_line_measures_a_task_before_and_after(tiny_model, file):
    chosen = ["evaluators=inspect", f"evaluators.args.task={file.name}@sums"]
    rows = find(str(finished_run(file.parent, tiny_model, *chosen))).rows()
    assert len([row for row in rows if "eval/inspect/accuracy" in row]) == 2
    of_inspect = [name for name in rows[-1] if name.startswith("eval/inspect/")]
    assert of_inspect == ["eval/inspect/accuracy", "eval/inspect/accuracy_stderr"]


@needs_inspect
def test_nothing_of_inspect_is_imported_by_the_process_that_trains(tiny_model, file):
    measured(tiny_model, f"{file}@sums")
    assert not any(name.partition(".")[0] == "inspect_ai" for name in sys.modules)


def test_a_file_that_is_not_there_is_named_with_its_key(tiny_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(BadInput, match="evaluators.args.task: no.py: there is no such file"):
        builder(tiny_model, "no.py@sums")()


def test_without_inspect_the_error_says_which_command_installs_it(tiny_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="not installed; run pip install inspect-ai"):
        builder(tiny_model, "my_task.py@sums")()


LOG = {
    "scorers": [{"name": "a b", "metrics": ["accuracy"]}, {"name": "c", "metrics": ["mean"]}],
    "reducers": 0,
    "scores": [
        {"name": "a b", "reducer": None, "metrics": {"accuracy": 0.5, "stderr": 0.5}},
        {"name": "c", "reducer": None, "metrics": {"mean": 0.9}},
    ],
    "reductions": [
        {"scorer": "a b", "reducer": None, "values": [[1, 1.0], [2, 0.0]]},
        {"scorer": "c", "reducer": None, "values": [[1, 0.5], [2, None]]},
    ],
    "samples": [
        {"id": 1, "prompt": "p", "answer": "x", "reference": "x", "scores": {"a b": "C"}},
        {"id": 2, "prompt": "q", "answer": "x", "reference": "y", "scores": {"a b": "I"}},
    ],
}


def test_a_log_gives_metrics_and_examples_of_those_that_are_means_of_its_samples():
    assert inspect_log.names(LOG, "mine") == ("eval/mine/a_b/accuracy", "eval/mine/c/mean")
    assert inspect_log.metrics(LOG, "mine")["eval/mine/a_b/accuracy_stderr"] == 0.5
    assert set(inspect_log.examples(LOG, "mine")) == {"eval/mine/a_b/accuracy"}
    assert inspect_log.rows(LOG)[1]["score a b"] == "I"


def test_what_a_task_measures_is_not_known_if_its_scorers_decide():
    scorers = [{"name": "a", "metrics": None}]
    assert inspect_log.names({**LOG, "scorers": scorers}, "mine") is None
