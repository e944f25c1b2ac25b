"""TuFT's own API, as released, with its computing left out: what it asks and refuses is real, its
numbers are not. SFT_TUFT_VENV names a virtual environment that has it (see `.ci/run`)."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from sft.doctor import main as doctor
from sft.sample import main as sample

pytestmark = pytest.mark.slow
VENV = os.environ.get("SFT_TUFT_VENV")
START_SECONDS = 120
CONFIG = """
checkpoint_dir: {folder}/checkpoints
supported_models:
  - model_name: tiny
    model_path: {model}
    max_model_len: 512
    max_lora_rank: 32
    max_loras: 8
    capabilities: [training, sampling]
authorized_users:
  tml-test: tests
persistence:
  mode: DISABLE
"""


@pytest.fixture(scope="module")
def tuft(tmp_path_factory, tiny_model):
    """The URL of a TuFT server."""
    if not VENV:
        pytest.skip("SFT_TUFT_VENV does not name a virtual environment with TuFT")
    folder = tmp_path_factory.mktemp("tuft")
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder, model=tiny_model))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [f"{VENV}/bin/tuft", "launch", "--host", "127.0.0.1", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"TUFT_CPU_TEST": "1", "TUFT_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [*command, "--config", str(folder / "config.yaml")],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, server, folder / "log")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/v1/healthz", timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"TuFT did not start: {log.read_text()[-2000:]}")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")


def test_a_run_is_trained_measured_and_saved(tuft, trained):
    result, rows, facts = trained(tuft, "run")
    assert result.status == "FINISHED", result.error
    assert result.failed_evaluations == []
    assert [row["step"] for row in rows if "eval/nll" in row] == [0, 2, 4]
    assert [record.name for record in result.checkpoints] == ["000002", "final"]
    repairs = facts["server"]["repairs"]
    assert "create_model without optimizer_config" in repairs
    assert "adapters" in repairs  # unloaded, they would take their checkpoints along


def test_a_run_is_resumed_from_its_checkpoint(tuft, trained):
    trained(tuft, "run")
    checkpoints = Path("run/checkpoints.jsonl")
    checkpoints.write_text(checkpoints.read_text().splitlines()[0] + "\n")
    result, _, facts = trained(tuft, "run")
    assert result.status == "FINISHED" and result.checkpoints[-1].name == "final"
    assert "a model from a checkpoint" in facts["server"]["repairs"]


def test_a_checkpoint_answers(tuft, trained, capsys):
    trained(tuft, "run")
    assert sample(["run", "Say 3.", "--max-tokens", "4"]) == 0


def test_the_doctor_finds_that_a_run_can_train(tuft, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overrides = ["service=custom", f"service.base_url={tuft}", "model=folder", "model.name=tiny"]
    assert doctor([*overrides, "--json"]) == 0
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["versions"]["found"].endswith("TuFT 0.1.0")
    assert rows["a model from a checkpoint"]["state"] == "missing"
    assert rows["unloading an adapter"]["found"] == "its checkpoints go, too"


def test_a_wrong_key_ends_the_doctor(tuft, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINKER_API_KEY", "tml-wrong")
    assert doctor(["service=custom", f"service.base_url={tuft}"]) == 1
    assert "set TINKER_API_KEY" in capsys.readouterr().out
