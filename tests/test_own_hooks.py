"""Hooks of the user's own: `hooks=my_hooks:Mine`, saved, in sweeps, in a config from elsewhere."""

import json
import sys
from pathlib import Path

import pytest

from sft import reproduce
from sft.config.compose import compose
from sft.config.saved import from_saved, to_saved
from sft.errors import BadInput
from sft.files import json_lines, read_yaml
from sft.hooks import of_ones_own
from sft.past.trust import check_untrusted
from tests.sweeps.conftest import chats, on_service, overrides, sweep  # noqa: F401 - fixtures
from tests.tracking.test_trackers import run  # noqa: F401 - fixture

MY_HOOKS = """
import json

from sft.hooks import BaseHook


class Mine(BaseHook):
    told: list

    def on_start(self, run):
        self.file = run.directory / "mine.jsonl"

    def on_metrics(self, step, metrics, timestamp_ms):
        if "eval/nll" in metrics:
            with self.file.open("a") as file:
                file.write(json.dumps([step, metrics["eval/nll"]]) + "\\n")


class Second(BaseHook):
    def on_end(self, result):
        (result.directory / "second").write_text(result.status)


class Wanting(BaseHook):
    def __init__(self, url):
        self.url = url


class Other:
    pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_hooks.py").write_text(MY_HOOKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("my_hooks", None)


def test_a_hook_that_the_command_line_names_follows_the_run(run, here):  # noqa: F811
    assert run("tracking=none", "hooks=my_hooks:Mine", "run_name=null") == 0
    rows = [row for row in json_lines(Path("run/metrics.jsonl")) if "eval/nll" in row]
    told = [[row["step"], row["eval/nll"]] for row in rows]
    assert json_lines(Path("run/mine.jsonl")) == told and len(told) == 3
    assert read_yaml(Path("run/config.yaml"))["hooks"] == ["my_hooks:Mine"]
    facts = json.loads(Path("run/run.json").read_text())
    assert list(facts["code"]) == ["my_hooks"] and "my_hooks" not in facts["name"]


def test_several_follow_it(run, here):  # noqa: F811
    assert run("tracking=none", "max_steps=1", "hooks=[my_hooks:Mine,my_hooks:Second]") == 0
    assert Path("run/mine.jsonl").exists() and Path("run/second").read_text() == "FINISHED"


@pytest.mark.slow
def test_a_reproduction_has_it_again_and_compares_its_code(run, here, capsys):  # noqa: F811
    assert run("tracking=none", "max_steps=1", "hooks=my_hooks:Second") == 0
    (here / "my_hooks.py").write_text(MY_HOOKS + "\nMORE = 1\n")
    assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    assert "my_hooks changed" in said and "verdict: agrees" in said
    assert len(list(here.glob("outputs/*/*/second"))) == 1


@pytest.mark.slow
def test_each_trial_of_a_sweep_has_hooks_of_its_own(sweep, here):  # noqa: F811
    arguments = ("lr=1e-3,1e-2", "max_steps=2", "hydra.sweeper.study_name=s")
    assert sweep(*arguments, "hooks=my_hooks:Mine") == 0
    for number in (0, 1):
        assert len(json_lines(Path(f"outputs/sweeps/s/{number}/mine.jsonl"))) == 2


@pytest.mark.parametrize(
    "word, said",
    [
        ("my_hooks:Mne", "hooks: my_hooks has no Mne; did you mean 'Mine'"),
        ("my_hook:Mine", "hooks: there is no module 'my_hook'"),
        ("my_hooks", "hooks: 'my_hooks' is not of the form my_module:MyHook"),
        ("my_hooks:Other", "hooks: my_hooks:Other is not a subclass of sft.hooks.BaseHook"),
        ("my_hooks:Wanting", "hooks: my_hooks:Wanting() cannot be made: TypeError"),
    ],
)
def test_one_that_cannot_be_had_is_bad_input_before_anything_is_made(run, here, capsys, word, said):  # noqa: F811
    assert run("tracking=none", f"hooks={word}") == 2
    assert said in capsys.readouterr().err and not Path("run").exists()


def test_a_sweep_says_so_before_its_first_trial(sweep, here, capsys):  # noqa: F811
    assert sweep("lr=1e-3,1e-2", "hooks=my_hooks:Mne") == 2
    assert "did you mean 'Mine'" in capsys.readouterr().err and not Path("outputs").exists()


def test_a_config_from_elsewhere_may_import_no_hook(here):
    saved = to_saved(compose(["hooks=my_hooks:Mine"]))
    assert len(of_ones_own(from_saved(saved, "theirs").hooks)) == 1
    with pytest.raises(BadInput, match=r"hooks would import \['my_hooks:Mine'\]"):
        check_untrusted(saved, "theirs")
