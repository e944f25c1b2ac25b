"""A project folder that was renamed goes on as the same runs in the same store."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sft.past.find import find
from sft.record import checkpoints, metrics, rundir
from sft.tracking.store import open_client
from tests.chat_data import write_chats
from tests.command.test_signals import wait_until
from tests.test_resume import start

pytestmark = pytest.mark.slow


def run(module, *arguments, cwd):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def moved(tmp_path_factory, tiny_model):
    """(old, new) place of a project with an interrupted run, resumed from elsewhere after the
    project was renamed; and what that said."""
    folder = tmp_path_factory.mktemp("moved")
    old, new, elsewhere = folder / "old", folder / "new place", folder / "elsewhere"
    old.mkdir()
    elsewhere.mkdir()
    write_chats(old / "chats.jsonl", count=20)
    process = start(
        "sft", "dataset=jsonl", "dataset.path=chats.jsonl", "model=folder",
        f"model.name={tiny_model}", "service.dtype=float32", "batch_size=2", "max_length=128",
        "lora.rank=4", "epochs=100", "max_steps=150", "eval_every=0", "save_every=20",
        "evaluators=none", "run_dir=outputs/run", cwd=old,
    )  # fmt: skip
    directory = old / "outputs" / "run"
    wait_until(lambda: len(metrics.read(directory / "metrics.jsonl")) > 30, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    old.rename(new)
    said = run("sft.resume", new / "outputs" / "run", cwd=elsewhere)
    assert said.returncode == 0, said.stdout + said.stderr
    return old, new, elsewhere, said.stdout + said.stderr


def only_run(new):
    client = open_client(f"sqlite:///{new / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sft")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found, experiment


def test_the_run_goes_on_from_its_checkpoint_whatever_the_working_folder(moved):
    _, new, elsewhere, said = moved
    assert "resuming from checkpoint" in said
    assert rundir.read_facts(new / "outputs" / "run")["status"] == "FINISHED"
    assert list(elsewhere.iterdir()) == []


def test_it_stays_one_mlflow_run_that_ends_and_knows_its_directory(moved):
    _, new, *_ = moved
    _, found, _ = only_run(new)
    assert found.info.status == "FINISHED"
    assert found.data.tags["sft.run_dir"] == str(new / "outputs" / "run")


def test_files_go_to_where_the_store_lies_now_and_nothing_is_made_where_it_was(moved):
    old, new, *_ = moved
    client, found, experiment = only_run(new)
    assert not old.exists()
    here = (new / "mlartifacts").as_uri()
    assert found.info.artifact_uri.startswith(here)
    assert experiment.artifact_location.startswith(here)
    saved = Path(client.download_artifacts(found.info.run_id, "run.json"))
    assert '"FINISHED"' in saved.read_text()
    models = client.search_logged_models([experiment.experiment_id])
    assert models and all(model.artifact_location.startswith(here) for model in models)


def test_the_commands_work_on_it_from_another_folder(moved):
    old, new, elsewhere, _ = moved
    directory = new / "outputs" / "run"
    listed = run("sft.runs", directory, cwd=elsewhere)
    assert listed.returncode == 0 and "FINISHED" in listed.stdout
    exported = run("sft.export", directory, new / "adapter", cwd=elsewhere)
    assert exported.returncode == 0, exported.stderr
    answered = run("sft.sample", directory, "hello", "--max-tokens", "2", cwd=elsewhere)
    assert answered.returncode == 0, answered.stderr
    assert not old.exists() and list(elsewhere.iterdir()) == []


def test_its_run_id_finds_the_directory_before_anything_went_on_there(tmp_path, moved):
    _, new, *_ = moved
    _, found, _ = only_run(new)
    again = new.with_name("moved again")
    new.rename(again)
    try:
        at = find(found.info.run_id, f"sqlite:///{again / 'mlflow.db'}")
        assert at.directory == again / "outputs" / "run"
        assert find(str(at.directory)).uri == f"sqlite:///{again / 'mlflow.db'}"
    finally:
        again.rename(new)


def test_a_run_whose_checkpoints_are_nowhere_is_refused_and_not_begun_again(moved):
    _, new, elsewhere, _ = moved
    directory = elsewhere / "alone"
    directory.mkdir()
    for name in ("config.yaml", "checkpoints.jsonl"):
        (directory / name).write_bytes((new / "outputs" / "run" / name).read_bytes())
    assert checkpoints.read(directory / "checkpoints.jsonl")
    said = run("sft.resume", directory, cwd=elsewhere)
    assert said.returncode == 2 and "service.root" in said.stderr
    assert not (elsewhere / "outputs").exists()


def test_a_copy_of_a_project_keeps_its_files_to_itself(tmp_path):
    import shutil

    from sft.tracking.store import Store

    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    store = Store(f"sqlite:///{first / 'mlflow.db'}")
    client = store.client()
    experiment = client.create_experiment("sft", store.artifact_location("sft"))
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "one", "one.txt")
    shutil.copytree(first, copy)
    copied = Store(f"sqlite:///{copy / 'mlflow.db'}").client()
    copied.log_text(copied.create_run(experiment).info.run_id, "two", "two.txt")
    assert copied.get_run(run_id).info.artifact_uri.startswith(copy.as_uri())
    assert {path.name for path in first.rglob("*.txt")} == {"one.txt"}
    assert {path.name for path in copy.rglob("*.txt")} == {"one.txt", "two.txt"}
