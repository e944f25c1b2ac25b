"""The evaluators of the product from the command line: measured, saved, reproduced, trusted."""

import dataclasses
import json
import re

import pytest
import yaml

from sft import reproduce
from sft.config import evaluators
from sft.config.compose import compose
from sft.config.saved import (
    common_config,
    from_saved,
    from_train,
    is_reproducible,
    to_saved,
    to_train,
)
from sft.errors import BadInput
from sft.evaluators import BUILDERS
from sft.past.find import find
from sft.past.trust import check_untrusted
from tests.finished_run import finished_run, overrides

QUESTIONS = [
    {"question": "Say red and green.", "choices": ["red green", "blue black"], "answer": 0},
    {"question": "Say blue and white.", "choices": ["one", "blue white", "red"], "answer": "B"},
]
CHOICE = ["evaluators=choice", "evaluators.args.path=questions.jsonl"]
MATCH = "{builder: sft.evaluators:MatchBuilder, args: {path: answers.jsonl, max_tokens: 8}}"
BYTES = (
    "{builder: sft.evaluators:ChoiceBuilder, "
    "args: {path: questions.jsonl, normalise: bytes, name: by_bytes}}"
)


def write_questions(folder):
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in QUESTIONS))
    (folder / "answers.jsonl").write_text(json.dumps({"question": "Say a.", "answer": "a"}))


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    write_questions(folder)
    return finished_run(folder, tiny_model, *CHOICE, f"evaluators.further=[{MATCH}, {BYTES}]")


@pytest.fixture
def here(original, monkeypatch):
    monkeypatch.chdir(original.parent)
    return original.parent


METRICS = ("eval/choice/accuracy", "eval/match/accuracy", "eval/by_bytes/accuracy")


def measured(run):
    rows = find(str(run)).rows()
    return {name: [row[name] for row in rows if name in row] for name in METRICS}


def test_several_are_measured_at_once_before_and_after_two_of_a_kind_by_their_names(original):
    assert {name: len(values) for name, values in measured(original).items()} == dict.fromkeys(
        METRICS, 2
    )
    tables = {file.stem for file in (original / "tables").glob("*.jsonl")}
    assert {"choice", "match", "by_bytes"} <= tables


def test_a_reproduction_measures_the_same(original, here, capsys):
    assert reproduce.main(["run"]) == 0
    again = max(here.glob("outputs/*/*"), key=lambda folder: folder.stat().st_mtime_ns)
    assert measured(again) == measured(original)
    assert "verdict: agrees" in capsys.readouterr().out


def test_a_choice_is_saved_by_the_path_from_which_it_is_imported_and_its_fields(original):
    saved = yaml.safe_load((original / "config.yaml").read_text())["evaluators"]
    assert saved["builder"] == "sft.evaluators:ChoiceBuilder"
    assert saved["args"] == {"path": "questions.jsonl"}


def test_a_common_config_that_is_not_the_datas_cannot_be_made_again(tmp_path):
    config = to_train(compose(CHOICE), str(tmp_path))
    [builder] = config.infrequent_evaluator_builders
    builder.common_config = dataclasses.replace(builder.common_config, renderer_name="role_colon")
    saved = from_train(config)["evaluators"]["builder"]
    assert saved == "not importable: sft.evaluators:ChoiceBuilder (with its own common_config)"
    assert not is_reproducible(from_train(config))


@pytest.mark.parametrize("name", ["my questions (1).jsonl", "a=b,c.jsonl", "7.jsonl"])
def test_any_name_of_a_file_is_taken_as_it_is(name):
    settings = compose(["evaluators=choice", f"evaluators.args.path={name}"])
    assert settings.evaluators.args == {"path": name}


ARGS = {"choice": "path", "match": "path", "inspect": "task", "lm_eval": "task"}


@pytest.mark.parametrize("name", BUILDERS)
def test_each_group_makes_its_builder_with_the_runs_model_and_day_and_it_comes_back(name):
    overrides = [f"evaluators={name}", f"evaluators.args.{ARGS[name]}=x.jsonl", "date=2026-11-30"]
    settings = compose([*overrides, "model.chat_template_kwargs={enable_thinking: false}"])
    config = to_train(settings, "somewhere")
    [builder] = config.infrequent_evaluator_builders
    assert type(builder) is BUILDERS[name]
    assert builder.common_config == common_config(settings)
    assert builder.common_config.date == "2026-11-30"
    again = to_train(from_saved(from_train(config), "saved"), "somewhere")
    assert again.infrequent_evaluator_builders == [builder]


def test_a_run_without_a_day_gives_its_evaluators_its_own(tmp_path):
    import datetime

    from sft.config.day import on_its_day

    settings = compose([*CHOICE])
    [builder] = on_its_day(to_train(settings, str(tmp_path))).infrequent_evaluator_builders
    assert builder.common_config.date == datetime.date.today().isoformat()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["evaluators=custom"], "evaluators.builder: is missing; name it: my_module:MyBuilder"),
        (["evaluators=choice"], "evaluators.args.path: is missing"),
        (["evaluators=inspect"], "evaluators.args.task: is missing"),
        ([*CHOICE, "evaluators.args.normalise=byte"], "did you mean 'bytes'?"),
        (["evaluators=match", "evaluators.args.pth=x"], "did you mean 'path'?"),
        (
            ["evaluators=match", "evaluators.args={path: x, max_tokens: many}"],
            "evaluators.args.max_tokens: 'many' is not a whole number of 1 or more",
        ),
        (
            ["evaluators=match", "evaluators.args={path: x, how: exactly}"],
            "evaluators.args.how: 'exactly' is not one of exact, normalised, regex, number",
        ),
        (
            [*CHOICE, f"evaluators.further=[{MATCH.replace('max_tokens: 8', 'how: x')}]"],
            "evaluators.further[0].args.how: 'x' is not one of",
        ),
    ],
)  # fmt: skip
def test_arguments_are_checked_like_keys(overrides, words):
    settings = compose(overrides)
    with pytest.raises(BadInput) as error:
        evaluators.of_settings(settings, common_config(settings))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "more, words",
    [
        (["evaluators.args.path=nowhere.jsonl"], "evaluators.args.path: nowhere.jsonl: there is"),
        (
            [f"evaluators.further=[{BYTES.replace(', name: by_bytes', '')}]"],
            "two evaluators are called 'choice'",
        ),
    ],
)
def test_what_cannot_be_measured_stops_the_run_before_anything_is_made(
    here, tiny_model, capsys, more, words
):
    from sft.__main__ import main

    before = sorted(here.iterdir())
    assert main([*overrides(tiny_model), *CHOICE, *more, "run_dir=other"]) == 2
    assert words in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


def test_a_config_from_elsewhere_may_not_name_a_file_of_questions(here):
    saved = to_saved(compose(CHOICE))
    with pytest.raises(BadInput) as error:
        check_untrusted(saved, "elsewhere")
    assert "names a place, 'questions.jsonl'" in str(error.value)
    assert "import" not in str(error.value)


@pytest.mark.parametrize(
    ("group", "name", "task"),
    [
        ("inspect", "InspectBuilder", "my_task.py@sums"),
        ("inspect", "InspectBuilder", "theirs/sums"),
        ("lm_eval", "LmEvalBuilder", "my_task.yaml"),
        ("lm_eval", "LmEvalBuilder", "hellaswag"),
    ],
)
def test_a_config_from_elsewhere_may_not_run_a_task(group, name, task):
    entry = f"{{builder: sft.evaluators:{name}, args: {{task: {task}}}}}"
    for key, given in (
        ("evaluators", [f"evaluators={group}", f"evaluators.args.task={task}"]),
        ("evaluators.further[0]", [f"evaluators.further=[{entry}]"]),
    ):
        words = re.escape(f"and {key}.args.task would run the code of '{task}'")
        with pytest.raises(BadInput, match=words):
            check_untrusted(to_saved(compose(given)), "elsewhere")


def test_a_builder_beside_those_of_the_product_is_an_import_all_the_same():
    saved = to_saved(compose(["evaluators.builder=sft.evaluators:EvaluatorBuilder"]))
    with pytest.raises(BadInput, match="would import 'sft.evaluators:EvaluatorBuilder'"):
        check_untrusted(saved, "elsewhere")
