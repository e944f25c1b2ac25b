"""Weights & Biases, offline: what its own files hold of a run. Nothing here reaches the network."""

import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sft.config.compose import compose
from sft.errors import BadInput
from sft.record import checkpoints, metrics
from sft.tracking import trackers
from tests.sweeps.conftest import chats, on_service, overrides, sweep  # noqa: F401 - fixtures
from tests.tracking.test_outbox import Life
from tests.tracking.test_trackers import run  # noqa: F401 - fixture

pytest.importorskip("wandb", reason="pip install wandb")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Offline, and without a key of this machine's."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def records(directory):
    """What the files of W&B in a run directory hold, life after life: (kind, record).

    They are logs of LevelDB behind a header of seven bytes: blocks of 32 KiB of parts, each with a
    checksum, its length and whether a record ends with it.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(Path(directory, "wandb").glob("*run-*/*.wandb")):
        data, at, parts = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = struct.unpack_from("<HB", data, at + 4)
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record, parts = Record.FromString(parts), b""
                name = record.WhichOneof("record_type")
                yield name, getattr(record, name)


def values_of(items):
    """Names and values; a nested name joined by dots."""
    found = {}
    for item in items:
        name = item.key or ".".join(item.nested_key)
        found[name] = json.loads(item.value_json)
    return found


def rows_of(directory):
    return [values_of(one.item) for kind, one in records(directory) if kind == "history"]


def summary_of(directory):
    found = {}
    for kind, one in records(directory):
        if kind == "summary":
            found |= values_of(one.update)
    return found


def runs_of(directory):
    return [one for kind, one in records(directory) if kind == "run"]


def test_a_run_has_its_points_with_their_steps_and_times(run, capfd):  # noqa: F811
    assert run("tracking=wandb", "evaluators.held_out_answers=1") == 0
    rows = rows_of("run")
    for metric in ("train/nll", "eval/nll"):
        there = {(r["step"], r[metric], r["_timestamp"]) for r in rows if metric in r}
        recorded = metrics.read(Path("run/metrics.jsonl"))
        assert there == {
            (row["step"], row[metric], row["timestamp"] / 1000) for row in recorded if metric in row
        }
    assert any("answers" in name for row in rows for name in row)
    [metric] = [one for kind, one in records("run") if kind == "metric"]
    assert (metric.glob_name, metric.step_metric) == ("*", "step")
    said = capfd.readouterr()
    assert "tracking     wandb" in said.out and "wandb:" not in said.err + said.out


def test_its_settings_are_the_config_and_its_end_and_checkpoints_the_summary(run):  # noqa: F811
    assert run("tracking=wandb", "tracking.also.wandb.project=mine") == 0
    [of_run] = runs_of("run")
    config = values_of(of_run.config.update)
    assert (of_run.project, of_run.display_name) == ("mine", "first")
    assert config["lora"]["rank"] == 32 and config["batch_size"] == 4
    summary = summary_of("run")
    assert summary["status"] == "FINISHED"
    saved = {r.name: r.state_path for r in checkpoints.read(Path("run/checkpoints.jsonl"))}
    assert {name: one["state"] for name, one in summary["checkpoints"].items()} == saved


def test_trials_that_run_at_once_are_runs_of_one_group(sweep):  # noqa: F811
    arguments = ("lr=1e-3,1e-2", "max_steps=2", "hydra.sweeper.study_name=s")
    assert sweep(*arguments, "hydra.sweeper.n_jobs=2", "tracking=[tensorboard,wandb]") == 0
    found = []
    for number in (0, 1):
        directory = f"outputs/sweeps/s/{number}"
        [of_run] = runs_of(directory)
        assert of_run.run_group == "s" and len(list(Path(directory, "tensorboard").iterdir())) == 1
        config = values_of(of_run.config.update)
        assert config["sweep.trial"] == str(number)
        there = {(r["step"], r["train/nll"]) for r in rows_of(directory) if "train/nll" in r}
        rows = metrics.read(Path(directory, "metrics.jsonl"))
        assert there == {(r["step"], r["train/nll"]) for r in rows if "train/nll" in r}
        found.append((of_run.run_id, config["lr"]))
    assert len({id for id, _ in found}) == 2 and sorted(lr for _, lr in found) == [1e-3, 1e-2]


def test_a_resumed_run_goes_on_in_its_run(tmp_path):
    life = Life(tmp_path / "run", tracker="wandb")
    for step in range(3):
        life.step(step, train_nll=float(step))
    life.end("KILLED")
    assert trackers.TRACKERS["wandb"].flush(60) == []
    life = Life(tmp_path / "run", start_step=2, tracker="wandb")
    life.step(2, train_nll=12.0)
    life.end()
    assert trackers.TRACKERS["wandb"].flush(60) == []
    first, second = runs_of(tmp_path / "run")
    assert first.run_id == second.run_id
    points = [(row["step"], row["train/nll"]) for row in rows_of(tmp_path / "run")]
    assert points == [(0, 0.0), (1, 1.0), (2, 2.0), (2, 12.0)]
    assert summary_of(tmp_path / "run")["status"] == "FINISHED"


def test_without_a_key_it_is_said_before_anything_is_made(run, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("WANDB_MODE", "online")
    assert run("tracking=[mlflow,wandb]") == 2
    said = capsys.readouterr().err
    assert "Weights & Biases has no API key; run `wandb login`" in said and said.count("\n") == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "line, missing",
    [
        ("machine api.wandb.ai login user password 0123", False),
        ("machine wandb.lab login user password 0123", True),
    ],
)
def test_the_key_of_wandb_login_is_found(tmp_path, monkeypatch, line, missing):
    (tmp_path / "netrc").write_text(line + "\n")
    settings = compose(["tracking=wandb", "tracking.also.wandb.mode=online"])
    if missing:
        with pytest.raises(BadInput, match="has no API key"):
            trackers.hooks(settings, {})
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab")
    assert len(trackers.hooks(settings, {})) == 1


def test_a_server_that_is_away_costs_the_run_nothing(run, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert run("tracking=wandb", "max_steps=1") == 0
    said = capsys.readouterr().err
    assert "Weights & Biases lacks part of run (http://127.0.0.1:9: " in said
    state = json.loads(Path("run/wandb.json").read_text())
    assert state["ended"] is None and state["sent"]["trained"] == -1


class Refusing(BaseHTTPRequestHandler):
    """Answers, and is no W&B."""

    def do_GET(self):
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_a_run_that_wandb_could_not_begin_is_not_begun_twice_in_one_process(
    tmp_path, monkeypatch, caplog
):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("sft.tracking.dashboards.wandb.SECONDS", 2.0)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        life = Life(tmp_path / "run", tracker="wandb")
        life.end()
        said = trackers.TRACKERS["wandb"].flush(60)
        [sentence] = [one for one in said if str(tmp_path) in one]
        server.shutdown()
    assert "Failed to get resume status" in sentence  # and not that its id is in use
