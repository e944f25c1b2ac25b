"""TensorBoard reads a run: its points, settings, texts and end, each once."""

from pathlib import Path

import pytest

from sft import resume
from sft.record import metrics
from tests.sweeps.conftest import chats, on_service, overrides, sweep  # noqa: F401 - fixtures
from tests.tracking.test_trackers import run  # noqa: F401 - fixture

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
)


def read(directory):
    """What TensorBoard sees of a run directory."""
    [file] = Path(directory, "tensorboard").iterdir()
    reader = event_accumulator.EventAccumulator(str(file), size_guidance={})
    return reader.Reload()


def points(reader, metric):
    return [(event.step, pytest.approx(event.value)) for event in reader.Scalars(metric)]


def recorded(directory, metric):
    rows = metrics.read(Path(directory, "metrics.jsonl"))
    return [(row["step"], row[metric]) for row in rows if metric in row]


def text(reader, tag):
    return reader.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


@pytest.fixture
def of_run(run):  # noqa: F811
    assert run("tracking=tensorboard", "evaluators.held_out_answers=1") == 0
    return read("run")


def test_every_point_is_that_of_the_run_directory(of_run):
    for metric in ("train/nll", "eval/nll", "lr"):
        assert points(of_run, metric) == recorded("run", metric)
    assert not Path("mlflow.db").exists()  # chosen alone, it is without MLflow


def test_settings_checkpoints_answers_and_end_are_there(of_run):
    assert '"batch_size": 4' in text(of_run, "config")
    assert "| final | 4 | tinker://" in text(of_run, "checkpoints")
    assert "| prompt |" in text(of_run, "answers") or "prompt" in text(of_run, "answers")
    assert text(of_run, "status") == "FINISHED"


def test_its_tab_of_hyperparameters_has_the_run(of_run):
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.metadata import (
        parse_session_end_info_plugin_data,
        parse_session_start_info_plugin_data,
    )

    content = of_run.summary_metadata
    start = content["_hparams_/session_start_info"].plugin_data.content
    settings = parse_session_start_info_plugin_data(start).hparams
    assert settings["lora.rank"].number_value == 32 and settings["lora.train_mlp"].bool_value
    end = content["_hparams_/session_end_info"].plugin_data.content
    assert parse_session_end_info_plugin_data(end).status == api_pb2.STATUS_SUCCESS


STOP = """
from pathlib import Path

from sft.hooks import BaseHook


class Once(BaseHook):
    def on_start(self, run):
        self.run = run

    def on_progress(self, step, metrics):
        if step == 2 and self.run.start_step == 0:
            self.run.stop("by hand", "KILLED")
"""


def test_a_resumed_run_has_each_step_once(run, monkeypatch):  # noqa: F811
    Path("stop_once.py").write_text(STOP)
    monkeypatch.syspath_prepend(Path.cwd())
    run("tracking=tensorboard", "hooks=stop_once:Once", "submit_ahead=0")
    assert text(read("run"), "status") == "KILLED: by hand"
    assert resume.main(["run"]) == 0
    assert text(read("run"), "status") == "FINISHED"
    assert [step for step, _ in points(read("run"), "train/nll")] == [0, 1, 2, 3]
    for metric in ("train/nll", "eval/nll"):
        assert points(read("run"), metric) == recorded("run", metric)


def test_each_trial_has_files_of_its_own(sweep):  # noqa: F811
    arguments = ("lr=1e-3,1e-2", "max_steps=2", "hydra.sweeper.study_name=s")
    assert sweep(*arguments, "tracking=tensorboard") == 0
    for number in (0, 1):
        directory = f"outputs/sweeps/s/{number}"
        reader = read(directory)
        assert points(reader, "train/nll") == recorded(directory, "train/nll")
        assert f'"lr": {(1e-3, 1e-2)[number]}' in text(reader, "config")
