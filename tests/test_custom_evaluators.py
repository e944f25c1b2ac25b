"""Evaluators of the user's own: from the command line, in the saved config, in a reproduction."""

import asyncio
import sys
from dataclasses import dataclass

import pytest
import yaml

from sft import reproduce
from sft.config import evaluators
from sft.config.compose import compose
from sft.config.saved import common_config, from_saved, from_train, to_saved, to_train
from sft.errors import BadInput
from sft.evaluators import EvaluatorBuilder
from sft.past.find import find
from sft.past.trust import check_untrusted
from sft.run import training
from tests.finished_run import finished_run
from tests.test_train import chats, make_config  # noqa: F401 - fixtures

MY_EVAL = """
from dataclasses import dataclass

from sft.evaluators import EvaluatorBuilder


class Likely:
    name = "likely"
    metrics = ("eval/likely/first",)

    def __init__(self, token):
        self.token = token

    async def __call__(self, sampling_client):
        import tinker

        prompt = tinker.ModelInput.from_ints([self.token, self.token + 1])
        return {"eval/likely/first": (await sampling_client.compute_logprobs(prompt))[1]}


@dataclass
class LikelyBuilder(EvaluatorBuilder):
    token: int = 65

    def __call__(self):
        return Likely(self.token)


@dataclass
class InMode(LikelyBuilder):
    mode: str = "first"
    other: str | None = None


class NotADataclass(EvaluatorBuilder):
    token: int = 65
"""
IN_MODE = "evaluators.builder=my_eval:InMode"
ON = ["evaluators.builder=my_eval:LikelyBuilder", "evaluators.args.token=70"]


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    (folder / "my_eval.py").write_text(MY_EVAL)
    return finished_run(folder, tiny_model, *ON)


@pytest.fixture
def here(original, monkeypatch):
    monkeypatch.chdir(original.parent)
    yield original.parent
    sys.modules.pop("my_eval", None)


def measured(run):
    return [row["eval/likely/first"] for row in find(str(run)).rows() if "eval/likely/first" in row]


def test_an_evaluator_from_the_command_line_measures_before_and_after(original):
    assert len(measured(original)) == 2


def test_its_reproduction_measures_the_same(original, here, capsys):
    assert reproduce.main(["run"]) == 0
    again = max(here.glob("outputs/*/*"), key=lambda folder: folder.stat().st_mtime_ns)
    assert measured(again) == measured(original)
    assert "verdict: agrees" in capsys.readouterr().out


@pytest.mark.slow
def test_one_that_runs_often_is_measured_with_held_out_nll(here, tiny_model):
    often = finished_run(here, tiny_model, *ON, "evaluators.often=true", directory="often")
    assert len(measured(often)) == 3


def test_its_code_is_compared_by_a_reproduction(here, capsys):
    file = here / "my_eval.py"
    file.write_text(MY_EVAL + "\nMORE = 1\n")
    try:
        assert reproduce.main(["run"]) == 0
    finally:
        file.write_text(MY_EVAL)
    assert "my_eval changed" in capsys.readouterr().out


def test_several_evaluators_come_back_from_the_saved_config(here):
    further = "[{builder: my_eval:LikelyBuilder, args: {token: 3}, often: true}]"
    settings = compose([*ON, f"evaluators.further={further}"])
    config = to_train(from_saved(to_saved(settings), "saved"), "somewhere")
    assert [builder.token for builder in config.infrequent_evaluator_builders] == [70]
    assert [builder.token for builder in config.evaluator_builders] == [3]
    again = from_train(config)["evaluators"]
    names = [(again["builder"], again["args"])]
    names += [(entry["builder"], entry["args"]) for entry in again["further"]]
    assert sorted(names, key=str) == [
        ("my_eval:LikelyBuilder", {"token": 3}),
        ("my_eval:LikelyBuilder", {"token": 70}),
    ]


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["evaluators.builder=my_eval:LikelyBuildr"], ["did you mean 'LikelyBuilder'"]),
        (["evaluators.builder=my_evil:X"], ["there is no module 'my_evil'"]),
        (["evaluators.builder=os:system"], ["not a subclass of sft.evaluators.EvaluatorBuilder"]),
        (["evaluators.builder=my_eval:NotADataclass"], ["write @dataclass above it"]),
        (
            [IN_MODE, "evaluators.args.mode=nan"],
            ["args.mode: nan is not text", "quotes"],
        ),
        ([IN_MODE, "evaluators.args.mode=1.50"], ["evaluators.args.mode: 1.5 is not text"]),
        ([IN_MODE, "evaluators.args.other=true"], ["evaluators.args.other: True is not text"]),
        (["evaluators=match", "evaluators.args.path=inf"], ["evaluators.args.path: inf is not"]),
        ([ON[0], "evaluators.args.tokn=1"], ["evaluators.args.tokn", "did you mean 'token'"]),
        (["evaluators.args.token=1"], ["evaluators.builder", "is missing"]),
        (["evaluators.further=[{build: x}]"], ["evaluators.further[0].build", "did you mean"]),
        (["evaluators.further=[{args: {a: 1}}]"], ["evaluators.further[0].builder", "is missing"]),
    ],
)
def test_a_builder_that_cannot_be_had_is_bad_input_that_names_its_key(here, overrides, words):
    settings = compose(overrides)
    with pytest.raises(BadInput) as error:
        evaluators.of_settings(settings, common_config(settings))
    assert all(word in str(error.value) for word in words)


def test_a_text_that_looks_like_a_number_is_text_in_quotes(here):
    settings = compose([IN_MODE, "evaluators.args.mode='nan'", "evaluators.args.other=12"])
    builder = evaluators.of_settings(settings, common_config(settings))
    [judge] = builder["infrequent_evaluator_builders"]
    assert (judge.mode, judge.other) == ("nan", "12")


def test_a_config_from_elsewhere_may_import_no_evaluator(here):
    saved = to_saved(compose([f"evaluators.further=[{{builder: {ON[0].partition('=')[2]}}}]"]))
    with pytest.raises(BadInput, match=r"evaluators.further\[0\].builder would import 'my_"):
        check_untrusted(saved, "elsewhere")


@dataclass
class Odd(EvaluatorBuilder):
    values: object = None

    def __call__(self):
        async def odd(sampling_client):
            return {"eval/odd": 1.0}

        return odd


def test_a_run_whose_evaluator_was_made_in_a_function_says_that_it_cannot_be_reproduced(
    make_config,  # noqa: F811
):
    config = make_config(max_steps=1)
    config.evaluator_builders = [lambda: Odd()()]
    result = asyncio.run(training.train(config))
    assert "cannot be reproduced" in (result.directory / "run.log").read_text()
    saved = yaml.safe_load((result.directory / "config.yaml").read_text())
    assert saved["evaluators"]["builder"].startswith("not importable: ")
    with pytest.raises(BadInput, match="move it to a module"):
        to_train(from_saved(saved, "saved"), "somewhere")


def test_an_evaluator_from_python_is_saved_by_its_name_and_its_fields(make_config):  # noqa: F811
    config = make_config(max_steps=1)
    config.evaluator_builders = [Odd([1, "a"])]
    saved = from_train(config)
    assert saved["evaluators"]["builder"] == f"{__name__}:Odd"
    assert saved["evaluators"]["args"] == {"values": [1, "a"]}
    again = to_train(from_saved(saved, "saved"), "somewhere")
    assert again.evaluator_builders == config.evaluator_builders


def test_values_that_are_not_plain_cannot_be_made_again(make_config):  # noqa: F811
    config = make_config(max_steps=1)
    config.evaluator_builders = [Odd({1, 2})]
    saved = from_train(config)["evaluators"]
    assert saved["builder"].startswith("not importable: ") and saved["args"] == {}
