"""What a command shows until there is something else to look at."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.chat_data import write_chats
from tests.finished_run import overrides
from tests.terminal import on_terminal

LINES = """
    import threading
    from sft.display import stages as display
    from sft.stages.stages import stage
    display.AGAIN_SECONDS = 0.3
    looked = threading.Event()
    with display.shown("checking", lines=True):
        with stage("tokenising chats", total=40) as now:
            now.reached(12)
            looked.wait(1.5)
        with stage("so short that it gets no line"):
            pass
"""


LONG = "runs/a-folder/whose-name-is-long/" + "x" * 40
"""A run directory that does not fit beside the names of the banner's rows."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data to train on."""
    folder = tmp_path_factory.mktemp("stages")
    write_chats(folder / "chats.jsonl", count=24)
    return folder


@pytest.fixture(scope="module")
def run(place, tiny_model):
    """A whole run on a terminal of 80 columns."""
    words = (*overrides(tiny_model), f"run_dir={LONG}")
    return on_terminal(sys.executable, "-m", "sft", *words, cwd=place)


def test_the_first_word_is_what_is_done_first(run):
    assert run.code == 0, run.text
    assert run.text.lstrip("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ").startswith("checking the settings")


def test_what_takes_long_before_the_first_step_is_named(run):
    before = run.text.partition("LoRA rank")[0]
    for what in ("starting the local service", "loading the tokenizer"):
        assert what in before
    assert "evaluating: " in run.text.partition("LoRA rank")[2]


def test_nothing_of_it_is_left_above_the_banner(run):
    *_, last = run.raw.partition("LoRA rank")[0].splitlines()
    assert "the settings" not in last and "\x1b[?25h" in run.raw  # the cursor is there again


def test_the_banner_of_80_columns_breaks_no_path(run, tiny_model):
    rows = run.text.partition("LoRA rank")[2].partition("step 0/")[0].splitlines()
    assert f"  {LONG}" in rows
    assert any(f"model.name={tiny_model}" in row for row in rows)


def test_lines_in_a_pipe_say_each_stage_once_and_how_far_a_long_one_is():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LINES)], capture_output=True, text=True
    )
    first, again, *_ = done.stdout.splitlines()
    assert first == "tokenising chats …"
    assert again.startswith("tokenising chats: 12/40, 0:0") and again.endswith(" so far …")
    assert "\r" not in done.stdout and "short" not in done.stdout and done.stderr == ""


@pytest.mark.slow
def test_an_answer_stands_alone_on_standard_output(place, run):
    command = (sys.executable, "-m", "sft.sample", LONG, "hello", "--max-tokens=4")
    shown = on_terminal(*command, cwd=place, is_stdout=False)
    assert shown.code == 0 and "waiting for the answer" in shown.text, shown.text
    piped = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert (piped.stdout, piped.stderr) == (shown.stdout, "")


@pytest.mark.parametrize("stage", ["checking the settings", "starting the local service"])
@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind_and_prints_no_traceback(stage, place, tiny_model, tmp_path):
    shown = on_terminal(
        sys.executable,
        "-m",
        "sft",
        *overrides(tiny_model),
        f"dataset.path={place}/chats.jsonl",
        cwd=tmp_path,
        interrupt_at=lambda text: stage in text,
    )
    assert shown.code == 130 and "Traceback" not in shown.text, shown.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"messages": 1}\n', "line 1"),
        ('{"text": "a"}\nnot json\n', "line 2: not JSON"),
        ("", "holds no conversation"),
        (None, "there is no file"),
    ],
)
def test_bad_data_is_said_before_anything_that_takes_long_is_imported(tmp_path, content, said):
    if content is not None:
        (tmp_path / "chats.jsonl").write_text(content)
    code = """
        import json, sys
        from sft.__main__ import main
        code = main(["dataset.path=chats.jsonl", "tracking=none"])
        heavy = {"transformers", "torch", "tinker", "mlflow", "datasets"} & sys.modules.keys()
        print(json.dumps([code, sorted(heavy)]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [2, []], done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
