"""A file of the working folder that has a package's name is named, instead of what it breaks."""

import os
import subprocess
import sys

import pytest

from tests.test_console_script import SCRIPT

MODULE = ["-m", "sft"]
INSTALLED = ["-P", "-c", SCRIPT]  # -P: a script does not look in the working folder


def run(*arguments, cwd, **variables):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("command", [MODULE, INSTALLED], ids=["module", "script"])
@pytest.mark.parametrize("name", ["mlflow", "torch", "hydra"])
def test_a_script_with_a_packages_name_is_bad_input_before_the_start(tmp_path, name, command):
    script = tmp_path / f"{name}.py"
    script.write_text("raise SystemExit('the script ran')\n")
    done = run(*command, "max_steps=1", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert str(script) in done.stderr and f"the package {name}" in done.stderr
    assert list(tmp_path.iterdir()) == [script]


def test_a_folder_of_data_with_a_packages_name_hides_nothing(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "chats.jsonl").write_text("")
    assert run(*MODULE, "--cfg", "job", cwd=tmp_path).returncode == 0


def test_where_python_never_looks_in_the_working_folder_nothing_is_hidden(tmp_path):
    (tmp_path / "mlflow.py").write_text("raise SystemExit('the script ran')\n")
    done = run(*MODULE, "--cfg", "job", cwd=tmp_path, PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [MODULE, INSTALLED], ids=["module", "script"])
def test_a_builder_of_ones_own_is_found_in_the_working_folder(tmp_path, command):
    (tmp_path / "my_data.py").write_text("class Builder:\n    pass\n")
    words = "dataset=custom", "dataset.builder=my_data:Builder", "max_steps=1"
    done = run(*command, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("sft: dataset.builder: my_data:Builder is not a subclass of ")
