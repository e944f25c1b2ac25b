"""`lr=auto`: a number before the run starts, and in all that is written about it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from sft import reproduce
from sft.errors import BadInput
from sft.files import read_yaml
from sft.prior.first_guess import DEFAULT
from sft.run.plan import with_learning_rate
from tests.failing_runs import go
from tests.finished_run import finished_run


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A folder with a run of `lr=auto` on a model whose name tells a size."""
    folder = tmp_path_factory.mktemp("auto")
    shutil.copytree(tiny_model, folder / "tiny-135M")
    finished_run(folder, folder / "tiny-135M", "lr=auto")
    return folder


def test_the_saved_config_holds_the_number_and_run_json_where_it_comes_from(place):
    facts = json.loads((place / "run" / "run.json").read_text())["learning_rate"]
    lr = read_yaml(place / "run" / "config.yaml")["lr"]
    assert isinstance(lr, float) and lr == facts["lr"]
    assert facts["from"] == "auto" and "tinker-cookbook" in facts["source"]
    rows = map(json.loads, (place / "run" / "metrics.jsonl").read_text().splitlines())
    assert max(row["lr"] for row in rows if "lr" in row) == lr


@pytest.mark.slow
def test_a_reproduction_takes_the_number_and_agrees(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    assert "verdict: agrees" in said and "auto:" not in said


def test_a_run_without_any_lr_prints_where_its_own_came_from(place, monkeypatch, capsys):
    from sft.__main__ import main
    from tests.finished_run import overrides

    monkeypatch.chdir(place)
    words = [word for word in overrides(place / "tiny-135M") if not word.startswith("lr=")]
    argv = [*words, "max_steps=2", "run_dir=without", "tracking=none"]
    monkeypatch.setattr(sys, "argv", ["sft", *argv])
    assert main(argv) in (0, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "auto: published sweeps" in said and "135M parameters" in said


def test_python_takes_auto_of_a_model_without_a_size_as_the_plain_default(stub):
    make, _ = stub
    result = go(config := make(learning_rate="auto"))
    assert result.status == "FINISHED"
    assert read_yaml(Path(config.log_path) / "config.yaml")["lr"] == DEFAULT


def test_a_run_that_is_taken_up_again_keeps_the_number_with_which_it_began(stub):
    make, _ = stub
    config = make(learning_rate="auto")
    Path(config.log_path).mkdir()
    (Path(config.log_path) / "config.yaml").write_text("lr: 1.5e-3\n")
    again, guess = with_learning_rate(config, plan=None)
    assert again.learning_rate == 1.5e-3 and guess is None


def test_auto_is_for_the_optimizer_of_the_published_sweeps(stub):
    make, _ = stub
    with pytest.raises(BadInput, match="lr: auto is for optimizer=adamw"):
        make(learning_rate="auto", optimizer="dimuon")
