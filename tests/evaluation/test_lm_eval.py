"""Tasks of lm-evaluation-harness, made here: what is scored, what is asked, what is measured."""

import asyncio
import importlib.util
import json
import subprocess
import sys

import pytest
import yaml

from sft.errors import BadInput, Sentence
from sft.evaluators import LmEvalBuilder
from sft.models.tokenizers import load_tokenizer
from sft.past.find import find
from sft.types import ChatDatasetBuilderCommonConfig
from tests.evaluation.says import Says
from tests.evaluation.test_choice import direct, run
from tests.finished_run import finished_run, overrides

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install lm-eval -c constraints.txt",
)
ROWS = {
    "colours": [
        {"q": "What is red?", "choices": ["blood", "a leaf", "the sky"], "a": 0},
        {"q": "What is green?", "choices": ["blood", "a leaf", "the sky"], "a": 1},
        {"q": "What is blå?", "choices": ["blod", "ett löv", "himlen"], "a": 2},
    ],
    "sums": [{"q": "1 + 1?", "a": "2"}, {"q": "1 + 2?", "a": "3"}],
    "words": [{"q": "Red as ", "a": "blood"}, {"q": "Green as", "a": "grass"}],
    "tales": [{"q": "Once upon a time it rained. " * 9}, {"q": "It rained."}],
}
ACC = [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")]
BRIER = {"metric": "brier_score", "aggregation": "brier_score"}
FILTERS = [
    {"name": "strict-match", "filter": [{"function": "take_first"}]},
    {
        "name": "number",
        "filter": [
            {"function": "regex", "regex_pattern": "([0-9]+)"},
            {"function": "take_first"},
        ],
    },
]
TASKS = {
    "colours": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "choices",
        "doc_to_target": "a",
        "metric_list": [*ACC, BRIER],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "a",
        "description": "Add.",
        "fewshot_split": "test",
        "gen_prefix": "It is",
        "generation_kwargs": {"until": [" so"], "max_gen_toks": 9},
        "filter_list": FILTERS,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    },
    "words": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{q}}",
        "doc_to_target": " {{a}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "tales": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
}
FUNCTIONS = """
import os

def dies(doc, results):
    if results[0]:  # when it is tried out, the answer is blank
        os._exit(3)
    return {"right": 0.0}

def demands(doc, results):
    return {"right": float(results[0][0] == "2")}
"""
OWN = """
from lm_eval.api.task import ConfigurableTask

class Own(ConfigurableTask):
    def __init__(self, config):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_context(self, doc, **given):
        return doc["q"]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of tasks, their data and their functions."""
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "utils.py").write_text(FUNCTIONS)
    (tmp_path / "own.py").write_text(OWN)
    for name in TASKS:
        written(tmp_path, name, name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, name, base, changed=None, text=""):
    """The file of a task like `base`, with some of its keys `changed`, and further `text`."""
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{base}.jsonl"}}}
    task = {"task": name, "test_split": "test", **data, **TASKS[base], **(changed or {})}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task) + text)
    return f"{name}.yaml"


def builder(tiny_model, task, **options):
    return LmEvalBuilder(ChatDatasetBuilderCommonConfig(str(tiny_model)), task, **options)


def said(tiny_model, task, text="2 so it is.", **options):
    evaluator = builder(tiny_model, task, **options)()
    client = Says(text, load_tokenizer(str(tiny_model)))
    return asyncio.run(evaluator(client)), evaluator, client


@needs_lm_eval
def test_choices_are_scored_right_behind_the_prompt_of_the_runs_renderer(
    local_service, tiny_model, here
):
    evaluator = builder(tiny_model, "colours.yaml")()
    found = run(evaluator, local_service)
    before = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    right = []
    for row, asked in zip(evaluator.table, ROWS["colours"], strict=True):
        scores = [direct(tiny_model, before.format(asked["q"]), one) for one in asked["choices"]]
        assert row["logprob"] == pytest.approx(max(scores), abs=1e-3)
        assert row["answer"] == asked["choices"][scores.index(max(scores))]
        assert row["reference"] == asked["choices"][asked["a"]]
        assert row["prompt"] == f"user: {asked['q']}"
        right.append(float(row["answer"] == row["reference"]))
    assert [row["acc"] for row in evaluator.table] == right
    assert found["eval/lm_eval/acc"] == sum(right) / 3
    metrics = {f"eval/lm_eval/{metric}" for metric in ("acc", "acc_norm", "brier_score")}
    assert set(found) == set(evaluator.metrics) == metrics
    assert set(evaluator.examples) == metrics - {"eval/lm_eval/brier_score"}  # no mean of numbers
    assert list(evaluator.examples["eval/lm_eval/acc"].totals) == right
    assert not any(name.partition(".")[0] == "lm_eval" for name in sys.modules)


HARNESS_ALONE = """
import json, sys
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

found = simple_evaluate(
    model="hf",
    model_args={"pretrained": sys.argv[1], "dtype": "float32"},
    tasks=sys.argv[2:],
    task_manager=TaskManager(include_defaults=False),
    device="cpu",
    bootstrap_iters=0,
)
keys = ("resps", "doc_id")
print(json.dumps({
    "results": found["results"],
    "resps": {task: [one["resps"] for one in own] for task, own in found["samples"].items()},
}))
"""


@needs_lm_eval
def test_plain_text_is_scored_as_the_harness_itself_scores_it(local_service, tiny_model, here):
    names = ["colours", "words", "tales"]
    done = subprocess.run(
        [sys.executable, "-c", HARNESS_ALONE, str(tiny_model), *(f"{n}.yaml" for n in names)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout.splitlines()[-1])
    for name in names:
        evaluator = builder(tiny_model, f"{name}.yaml", apply_chat_template=False, name=name)()
        found = run(evaluator, local_service)
        for metric, value in found.items():
            theirs = expected["results"][name][f"{metric.rpartition('/')[2]},none"]
            assert value == pytest.approx(theirs, rel=1e-4), metric
        for row, responses in zip(evaluator.table, expected["resps"][name], strict=True):
            if "logprob" in row:
                best = max(logprob for ((logprob, _),) in responses)
                assert row["logprob"] == pytest.approx(best, abs=1e-3)


@needs_lm_eval
def test_a_generated_answer_begins_with_the_tasks_prefix_and_ends_where_it_says(tiny_model, here):
    found, evaluator, client = said(tiny_model, "sums.yaml", num_fewshot=1)
    assert found == {
        "eval/lm_eval/strict-match/exact_match": 0.5,
        "eval/lm_eval/number/exact_match": 0.5,
    }
    assert set(evaluator.metrics) == set(found)
    prompt, params = client.asked[0]
    assert prompt.startswith("<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1 + 2?")
    assert prompt.count("<|im_start|>assistant\nIt is") == 2  # once of the example
    assert prompt.endswith("1 + 1?<|im_end|>\n<|im_start|>assistant\nIt is")
    assert (params.max_tokens, params.temperature, params.seed) == (9, 0.0, 0)
    [first, _] = evaluator.table
    assert (first["answer"], first["reference"], first["number exact_match"]) == ("2", "2", 1.0)
    assert list(evaluator.examples["eval/lm_eval/number/exact_match"].totals) == [1.0, 0.0]


@needs_lm_eval
def test_a_task_may_sample_and_what_it_does_not_say_is_the_builders(tiny_model, here):
    changed = {"generation_kwargs": {"until": [], "do_sample": True, "top_p": 0.9, "num_beams": 1}}
    task = written(here, "sampled", "sums", {**changed, "repeats": 2})
    _, _, client = said(tiny_model, task, max_gen_toks=5, seed=7, limit=1, num_fewshot=0)
    sampled = [(p.max_tokens, p.temperature, p.top_p, p.seed) for _, p in client.asked]
    assert sorted(sampled) == [(5, 1.0, 0.9, 7), (5, 1.0, 0.9, 8)]


@needs_lm_eval
def test_a_group_measures_itself_and_each_of_its_members(local_service, tiny_model, here):
    written(here, "again", "colours")
    group = {
        "group": "both",
        "task": ["colours", "again"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (here / "both.yaml").write_text(yaml.safe_dump(group))
    evaluator = builder(tiny_model, "both.yaml", limit=2, name="mine")()
    found = run(evaluator, local_service)
    assert set(found) == set(evaluator.metrics)
    assert {"eval/mine/acc", "eval/mine/again/acc", "eval/mine/colours/acc_norm"} < set(found)
    assert evaluator.examples["eval/mine/acc"].value == found["eval/mine/acc"]
    assert [row["task"] for row in evaluator.table] == ["colours"] * 2 + ["again"] * 2


@needs_lm_eval
@pytest.mark.parametrize(
    ("changed", "text", "words"),
    [
        ({"doc_to_text": "{{nothing}}"}, "", "'nothing' is undefined"),
        ({"unsafe_code": True}, "", "marked as unsafe. Set confirm_run_unsafe_code"),
        ({"generation_kwargs": {"until": [], "num_beams": 4}}, "", "the task sets num_beams"),
        ({"output_type": "poem"}, "", "invalid output_type 'poem'"),
        ({}, "class: !function own.Own", "set evaluators.args.apply_chat_template=false"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused_before_anything_is_made(
    tiny_model, here, changed, text, words
):
    task = written(here, "bad", "sums", changed, text)
    with pytest.raises(BadInput, match=f"evaluators.args.task: bad.yaml: .*(?i:{words})"):
        builder(tiny_model, task)()


@needs_lm_eval
def test_a_name_that_no_task_has_is_refused_with_the_nearest(tiny_model, here):
    with pytest.raises(BadInput, match="no task or group of this name; did you mean 'hellaswag'"):
        builder(tiny_model, "helaswag")()


@needs_lm_eval
def test_a_task_that_ends_its_process_says_so(tiny_model, here):
    text = "process_results: !function utils.dies\n"
    task = written(here, "dying", "sums", {"filter_list": None}, text)
    with pytest.raises(Sentence, match="lm-evaluation-harness ended without a result"):
        said(tiny_model, task)


@needs_lm_eval
def test_what_a_task_measures_is_not_known_if_it_cannot_judge_a_blank_answer(tiny_model, here):
    text = "process_results: !function utils.demands\n"
    task = written(here, "right", "sums", {"filter_list": None}, text)
    found, evaluator, _ = said(tiny_model, task)
    assert found == {"eval/lm_eval/right": 1.0}
    assert not hasattr(evaluator, "metrics")


@needs_lm_eval
def test_a_run_from_the_command_line_measures_a_task_before_and_after(tiny_model, here, capsys):
    from sft.__main__ import main

    chosen = ["evaluators=lm_eval", "evaluators.args.task=colours.yaml"]
    rows = find(str(finished_run(here, tiny_model, *chosen))).rows()
    assert len([row for row in rows if "eval/lm_eval/acc_stderr" in row]) == 2
    bad = [*overrides(tiny_model), *chosen, "metric=eval/lm_eval/f1", "run_dir=other"]
    assert main(bad) == 2
    assert "eval/lm_eval/f1" in capsys.readouterr().err
    assert not (here / "other").exists()


def test_a_file_that_is_not_there_is_named_with_its_key(tiny_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(BadInput, match="evaluators.args.task: no.yaml: there is no such file"):
        builder(tiny_model, "no.yaml")()


def test_without_the_harness_the_error_says_which_command_installs_it(tiny_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="not installed; run pip install lm-eval"):
        builder(tiny_model, "my_task.yaml")()
