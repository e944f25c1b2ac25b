"""A file of the working folder that has a package's name is named, instead of what it breaks."""

import subprocess
import sys

import pytest


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("name", ["mlflow", "torch", "hydra"])
def test_a_script_with_a_packages_name_is_bad_input_before_the_start(tmp_path, name):
    script = tmp_path / f"{name}.py"
    script.write_text("raise SystemExit('the script ran')\n")
    done = run("sft", "max_steps=1", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert str(script) in done.stderr and f"the package {name}" in done.stderr
    assert list(tmp_path.iterdir()) == [script]


def test_a_folder_of_data_with_a_packages_name_hides_nothing(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "chats.jsonl").write_text("")
    assert run("sft", "--cfg", "job", cwd=tmp_path).returncode == 0
