"""A run that is killed goes on as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.record import checkpoints, metrics, rundir
from tests.chat_data import write_chats

CLOCK = ("timestamp", "time/step", "tokens/per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A folder to run commands in, with data, and the overrides of a run that takes seconds."""
    folder = tmp_path_factory.mktemp("place")
    write_chats(folder / "chats.jsonl", count=44)
    overrides = [
        "dataset=jsonl",
        "dataset.path=chats.jsonl",
        "dataset.eval_size=4",
        "model=folder",
        f"model.name={tiny_model}",
        "service.dtype=float32",
        "batch_size=2",
        "max_length=128",
        "lora.rank=4",
        "lr=1e-2",
        "epochs=2",
        "eval_every=7",
        "save_every=3",
        "evaluators=none",
    ]
    return folder, overrides


def start(module, *arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(module, *arguments, cwd):
    process = start(module, *arguments, cwd=cwd)
    output, _ = process.communicate()
    return process.returncode, output


def comparable(directory):
    rows = metrics.read(directory / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def final_weights(place, directory):
    record = checkpoints.read(directory / "checkpoints.jsonl")[-1]
    assert record.kind == "final"
    run, kind, name = record.sampler_path.removeprefix("tinker://").split("/")
    folder = place / "outputs" / "service"
    (file,) = folder.glob(f"**/{run}/{kind}/{name}/adapter_model.safetensors")
    return file.read_bytes()


def rows_in(directory):
    return len(metrics.read(directory / "metrics.jsonl"))


def kill_and_resume(place, overrides, ahead, kills, seed):
    """Run to the end through `kills` kills at random moments; the directory."""
    moments = random.Random(seed)
    directory = place / f"killed-{ahead}-{kills}"
    arguments = ("sft", *overrides, f"submit_ahead={ahead}", f"run_dir={directory}")
    for _ in range(kills):
        process = start(*arguments, cwd=place)
        goal = rows_in(directory) + moments.randint(1, 8)
        while process.poll() is None and rows_in(directory) < goal:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.2)
        process.kill()
        process.wait()
        arguments = ("sft.resume", str(directory))
        if rundir.read_facts(directory).get("status") == "FINISHED":
            return directory
    code, output = finish(*arguments, cwd=place)
    assert code == 0, output
    return directory


@pytest.fixture(scope="module")
def whole(place):
    """The directory of a run that nothing disturbed."""
    folder, overrides = place
    directory = folder / "whole"
    code, output = finish("sft", *overrides, f"run_dir={directory}", cwd=folder)
    assert code == 0, output
    return directory


@pytest.mark.parametrize(
    ("ahead", "kills"),
    [(4, 1), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((0, 1), (1, 1), (4, 10)))],
)
def test_a_killed_run_resumes_to_the_same_numbers_and_weights(place, whole, ahead, kills):
    folder, overrides = place
    killed = kill_and_resume(folder, overrides, ahead, kills, seed=ahead)
    steps = [row["step"] for row in comparable(killed)]
    assert steps == sorted(set(steps))
    assert comparable(killed) == comparable(whole)
    assert final_weights(folder, killed) == final_weights(folder, whole)


def test_ctrl_c_saves_a_checkpoint_and_the_run_can_be_resumed(place):
    folder, overrides = place
    directory = folder / "interrupted"
    process = start("sft", *overrides, "epochs=100", f"run_dir={directory}", cwd=folder)
    while process.poll() is None and rows_in(directory) < 5:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    facts = rundir.read_facts(directory)
    assert facts["status"] == "KILLED" and "SIGINT" in facts["reason"]
    last = checkpoints.read(directory / "checkpoints.jsonl")[-1]
    assert last.kind in ("interrupted", "periodic") and last.step == facts["steps"]
    assert f"python -m sft.resume {directory}" in output


@pytest.mark.slow
def test_a_terminated_run_ends_with_143(place):
    folder, overrides = place
    directory = folder / "terminated"
    process = start("sft", *overrides, "epochs=100", f"run_dir={directory}", cwd=folder)
    while process.poll() is None and rows_in(directory) < 2:
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate()
    assert process.returncode == 143, output
    assert rundir.read_facts(directory)["status"] == "KILLED"


@pytest.mark.slow
def test_a_second_process_cannot_train_in_a_directory_that_one_trains_in(place):
    folder, overrides = place
    directory = folder / "taken"
    process = start("sft", *overrides, "epochs=100", f"run_dir={directory}", cwd=folder)
    try:
        while process.poll() is None and rows_in(directory) < 1:
            time.sleep(0.05)
        code, output = finish("sft.resume", str(directory), cwd=folder)
        assert code == 2 and "another process is training" in output
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_is_gone_resumes_from_the_one_before(place):
    folder, overrides = place
    directory = folder / "gone"
    process = start("sft", *overrides, "epochs=100", f"run_dir={directory}", cwd=folder)
    file = directory / "checkpoints.jsonl"
    while process.poll() is None and (not file.exists() or len(checkpoints.read(file)) < 3):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    records = checkpoints.read(file)
    run = records[-1].state_path.removeprefix("tinker://").split("/")[0]
    for lost in (folder / "outputs" / "service").glob(f"**/{run}/weights/{records[-1].name}"):
        shutil.rmtree(lost)
    process = start("sft.resume", str(directory), cwd=folder)
    rows = rows_in(directory)
    while process.poll() is None and rows_in(directory) <= rows:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert f"checkpoint {records[-1].name} is no longer on the service" in output


def test_a_finished_run_is_not_resumed(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.yaml").write_text("version: 1\n")
    (directory / "run.json").write_text(json.dumps({"status": "FINISHED"}))
    code, output = finish("sft.resume", str(directory), cwd=tmp_path)
    assert code == 2 and "sft.reproduce" in output


def test_a_word_that_is_no_run_says_what_would_be_one(tmp_path):
    code, output = finish("sft.resume", "no-such-run", cwd=tmp_path)
    assert code == 2 and "a run directory" in output
    assert os.listdir(tmp_path) == []
    assert Path(tmp_path).exists()
