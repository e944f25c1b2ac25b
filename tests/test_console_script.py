"""The script `sft`, and the commands as its subcommands."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from sft.__main__ import COMMANDS
from sft.config.help import help_text

SCRIPT = (
    "import sys; from importlib.metadata import entry_points; sys.argv[0] = 'sft'; "
    "sys.exit(next(iter(entry_points(group='console_scripts', name='sft'))).load()())"
)
"""What the installed script does: it loads the entry point and calls it."""


def python(*arguments, cwd=None):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def script():
    """Runs the script `sft` as it is installed."""
    found = entry_points(group="console_scripts", name="sft")
    assert found, "the script is not installed: make install"
    return lambda *arguments, cwd=None: python("-c", SCRIPT, *arguments, cwd=cwd)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_subcommand_of_the_module(command):
    by_module = python("-m", f"sft.{command}", "--help")
    by_word = python("-m", "sft", command, "--help")
    assert by_word.returncode == 0, by_word.stderr
    assert by_word.stdout == by_module.stdout and f"sft.{command}" in by_word.stdout


def test_importing_a_command_runs_nothing():
    code = (
        "import sys; sys.argv[1:] = ['--help']\nfrom sft.__main__ import COMMANDS, _command\n"
        "print([name for name in COMMANDS if not callable(_command(name).main)])"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_script_has_the_commands_too(script):
    assert script("runs", "--help").stdout == python("-m", "sft.runs", "--help").stdout


def test_the_script_composes_a_run(script, tmp_path):
    done = script("--cfg", "job", "lr=3e-4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lr: 0.0003" in done.stdout


def test_bad_input_of_a_command_ends_with_its_sentence_and_exit_code_2(script, tmp_path):
    for done in (
        script("resume", "outputs/none", cwd=tmp_path),
        python("-m", "sft", "resume", "outputs/none", cwd=tmp_path),
    ):
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("sft.resume: ") and done.stderr.count("\n") == 1


def test_a_misspelt_command_names_the_nearest(tmp_path):
    done = python("-m", "sft", "exprot", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "sft: exprot: there is no such command; did you mean 'export'?\n"


def test_the_help_says_in_a_line_each_what_the_commands_are_for():
    lines = help_text(COMMANDS).splitlines()
    for command, what in COMMANDS.items():
        (line,) = [line for line in lines if line.split()[:1] == [command]]
        assert line.endswith(what) and len(line) <= 80


def test_train_is_what_the_script_does_without_a_command(script, tmp_path):
    done = script("train", "--cfg", "job", "lr=3e-4", cwd=tmp_path)
    assert done.returncode == 0 and "lr: 0.0003" in done.stdout, done.stderr


def test_help_imports_no_command():
    words = "import sys; from sft.__main__ import main; main(['--help']); "
    done = python("-c", words + "print(*[name for name in sys.modules if name[:4] == 'sft.'])")
    loaded = done.stdout.splitlines()[-1].split()
    assert not set(COMMANDS.values()) & set(loaded)
