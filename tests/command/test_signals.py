"""A run that is told to end by a signal saves first, whichever signal it is."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.record import checkpoints, metrics, rundir
from tests.chat_data import write_chats

SECONDS = 120
"""After which a process under test is given up."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A folder to run commands in, with data, and the overrides of a run that never ends."""
    folder = tmp_path_factory.mktemp("place")
    write_chats(folder / "chats.jsonl", count=20)
    return folder, [
        "dataset=jsonl", "dataset.path=chats.jsonl", "model=folder", f"model.name={tiny_model}",
        "service.dtype=float32", "batch_size=2", "max_length=128", "lora.rank=4", "epochs=1000",
        "eval_every=0", "save_every=0", "evaluators=none", "tracking.uri=null",
    ]  # fmt: skip


def wait_until(condition, process=None):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def has_rows(directory, count=2):
    return lambda: len(metrics.read(directory / "metrics.jsonl")) >= count


def begun(place, name, *more, **how):
    """A run that trains, and its directory."""
    folder, overrides = place
    directory = folder / name
    process = subprocess.Popen(
        [sys.executable, "-m", "sft", *overrides, f"run_dir={directory}", *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how,
    )  # fmt: skip
    wait_until(has_rows(directory), process)
    return process, directory


def assert_saved(directory, reason):
    facts = rundir.read_facts(directory)
    assert (facts["status"], facts["reason"]) == ("KILLED", reason)
    last = checkpoints.read(directory / "checkpoints.jsonl")[-1]
    assert last.kind == "interrupted" and last.step == facts["steps"] > 0


@pytest.mark.parametrize(
    "name",
    ["SIGUSR1", pytest.param("SIGUSR2", marks=pytest.mark.slow)],  # the others: see below
)
def test_a_signal_saves_a_checkpoint_and_is_the_reason_of_the_end(place, name):
    number = signal.Signals[name]
    process, directory = begun(place, name)
    process.send_signal(number)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number, output
    assert_saved(directory, f"interrupted by {name}")
    assert output.count(f"{name}: saving a checkpoint") == 1


@pytest.mark.slow
def test_a_signal_to_every_process_of_a_job_leaves_the_service_to_save(place):
    process, directory = begun(place, "job")
    service = json.loads((place[0] / "outputs" / "service" / "service.json").read_text())
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU):
        os.kill(service["pid"], number)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGUSR1, output
    assert_saved(directory, "interrupted by SIGUSR1")
    assert "was lost" not in output
    wait_until(lambda: not Path(f"/proc/{service['pid']}").exists())


@pytest.mark.slow
def test_a_second_signal_of_another_kind_does_not_cut_the_saving_short(place):
    process, directory = begun(place, "two-kinds")
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode in (128 + n for n in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP))
    first = signal.Signals(process.returncode - 128).name
    assert_saved(directory, f"interrupted by {first}")
    assert output.count("saving a checkpoint") == 1


@pytest.mark.slow
def test_what_comes_twice_by_itself_does_not_cut_the_saving_short(place):
    process, directory = begun(place, "echo")
    for _ in range(20):  # `timeout` and closed terminals do so
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGHUP, output
    assert_saved(directory, "interrupted by SIGHUP")


@pytest.mark.slow
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(place):
    def as_nohup():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process, directory = begun(place, "nohup", preexec_fn=as_nohup)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    rows = len(metrics.read(directory / "metrics.jsonl"))
    wait_until(has_rows(directory, rows + 3), process)
    process.terminate()
    output, _ = process.communicate(timeout=SECONDS)
    assert_saved(directory, "interrupted by SIGTERM")
    assert "SIGHUP" not in output and "SIGINT" not in output


def in_a_terminal(folder, *command):
    """A process whose session has a terminal of its own; its id and the terminal's other end."""
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            os.execv(sys.executable, [sys.executable, "-m", *command])
        finally:
            os._exit(99)
    return pid, master


def read_until(master, condition):
    """Read what is shown, as a terminal does, until `condition`."""
    os.set_blocking(master, False)

    def is_met():
        try:
            os.read(master, 65536)
        except BlockingIOError:
            pass
        return condition()

    wait_until(is_met)


def exit_code(pid):
    ended = {}

    def is_over():
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended["code"] = os.waitstatus_to_exitcode(status)
        return bool(found)

    try:
        wait_until(is_over)
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ended["code"]


ALSO = [pytest.param(m, marks=pytest.mark.slow) for m in ("sft.reproduce", "sft.resume")]


@pytest.mark.parametrize("module", ["sft", *ALSO])
def test_a_run_whose_terminal_is_closed_saves_and_says_so_on_disk(place, module):
    folder, overrides = place
    directory = folder / f"closed-{module}"
    command = [module, *overrides, f"run_dir={directory}"]
    started = {directory}
    if module != "sft":
        process, first = begun(place, f"before-{module}")
        process.terminate()
        process.communicate(timeout=SECONDS)
        command = [module, str(first)]
        directory = first
        started = set(folder.glob("outputs/*/*"))
    rows = len(metrics.read(directory / "metrics.jsonl"))
    pid, master = in_a_terminal(folder, *command)
    if module == "sft.reproduce":
        found = lambda: set(folder.glob("outputs/20*/*")) - started  # noqa: E731
        read_until(master, found)
        (directory,) = found()
        rows = 0
    read_until(master, has_rows(directory, rows + 2))
    os.close(master)
    assert exit_code(pid) == 128 + signal.SIGHUP
    assert_saved(directory, "interrupted by SIGHUP")


@pytest.mark.slow
def test_a_run_that_ignores_the_hangup_trains_on_without_its_terminal(place):
    folder, overrides = place
    directory = folder / "disowned"
    pid, master = pty.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.chdir(folder)
            arguments = ["-m", "sft", *overrides, f"run_dir={directory}", "max_steps=60"]
            os.execv(sys.executable, [sys.executable, *arguments])
        finally:
            os._exit(99)
    read_until(master, has_rows(directory))
    os.close(master)
    assert exit_code(pid) == 0
    assert rundir.read_facts(directory)["status"] == "FINISHED"


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_any_more_does_not_end_a_run(place):
    process, directory = begun(place, "pipe", "max_steps=60")
    process.stdout.close()
    assert process.wait(SECONDS) == 0
    assert rundir.read_facts(directory)["status"] == "FINISHED"


@pytest.mark.slow
def test_the_limit_of_processor_time_saves_although_its_signal_comes_every_second(place):
    process, directory = begun(place, "xcpu")
    used = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    seconds = (int(used[11]) + int(used[12])) // os.sysconf("SC_CLK_TCK")
    resource.prlimit(process.pid, resource.RLIMIT_CPU, (seconds + 1, seconds + 600))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGXCPU, output
    assert_saved(directory, "interrupted by SIGXCPU")
