"""`sft.init`: what it writes composes and trains as it stands."""

import shlex
import subprocess
import sys

import pytest

from sft import preview
from sft.init.__main__ import main
from sft.record.rundir import read_facts


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "my project"
    assert main([str(folder)]) == 0
    return folder


def sft(project, *words):
    done = subprocess.run(
        [sys.executable, "-m", "sft", *words], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_experiment_composes_with_its_data(project):
    shown = sft(project, "--config-dir", "conf", "experiment=first", "--cfg", "job")
    assert "path: chats.jsonl" in shown and "kind: cosine" in shown


def test_the_other_commands_know_its_config_folder(project, tiny_model, monkeypatch, capsys):
    monkeypatch.chdir(project)
    own = ["--config-dir", "conf", "experiment=first", "model=folder", f"model.name={tiny_model}"]
    assert preview.main(own) == 0
    assert "When does the library" in capsys.readouterr().out
    assert preview.main(["--config-dir", "con", "lr=1e-4"]) == 2
    assert "sft.preview: --config-dir: there is no folder con" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_left_as_it_is(project, capsys):
    before = sorted(project.rglob("*"))
    assert main([str(project)]) == 2
    assert (
        capsys.readouterr().err == f"sft.init: {project}: the folder is not empty; name a new one\n"
    )
    assert sorted(project.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file" / "project")]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_that_it_prints_train_and_sweep(tmp_path, tiny_model, capsys):
    assert main([str(tmp_path / "project")]) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line, comments=True) for line in printed if "python -m sft" in line]
    assert len(commands) == 2
    for command in commands:
        tiny = ["model=folder", f"model.name={tiny_model}", "epochs=1"]
        sft(tmp_path / "project", *command[3:], *tiny, "max_length=128", "tracking=none")
    ends = [read_facts(file.parent) for file in tmp_path.rglob("run.json")]
    assert [end["status"] for end in ends] == ["FINISHED"] * 5
