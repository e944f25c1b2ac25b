"""Optuna's dashboard opens a study, and sees it become wider."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from sft.sweeps.space import parse
from sft.sweeps.study import storage, wider

PROGRAM = shutil.which("optuna-dashboard")
SPACE, WIDER = parse(["lr=1e-4,1e-3"]), parse(["lr=1e-4,1e-3,3e-3"])


def facts(space):
    return {"metric": ["eval/nll"], "space": space.describe()}


def opened(url, folder):
    return storage.open_study("s", storage.open_storage(url, folder), ["minimize"])


@pytest.fixture
def dashboard():
    """Starts the dashboard of a journal or a URL; returns what asks it for its studies."""
    if PROGRAM is None:
        pytest.skip("optuna-dashboard is not installed (pip install optuna-dashboard)")
    started = []

    def start(where: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        started.append(
            subprocess.Popen([PROGRAM, "--port", str(port), where], env=environment,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )  # fmt: skip

        def ask(path: str):
            for _ in range(300):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}") as answer:
                        return json.load(answer)
                except urllib.error.URLError as error:
                    if hasattr(error, "code"):
                        raise
                    time.sleep(0.2)
            raise AssertionError("the dashboard did not start")

        return ask

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "database"])
def test_optunas_dashboard_shows_a_study_also_once_it_is_wider(dashboard, tmp_path, kind):
    url = None if kind == "journal" else f"sqlite:///{tmp_path}/studies.db"
    study = opened(url, tmp_path)
    storage.remember(study, facts(SPACE))
    study.tell(study.ask(SPACE.distributions), 0.5)
    ask = dashboard(url or str(tmp_path / storage.JOURNAL))

    def values() -> list[float]:
        (summary,) = ask("studies")["study_summaries"]
        assert summary["study_name"] == "s"
        trials = ask(f"studies/{summary['study_id']}")["trials"]
        return [trial["values"][0] for trial in trials]

    assert values() == [0.5]
    assert wider.widen(study, facts(WIDER), WIDER.distributions, tmp_path)
    study = opened(url, tmp_path)
    study.tell(study.ask(WIDER.distributions), 0.4)
    for _ in range(100):  # the dashboard looks again every few seconds
        if len(values()) == 2:
            break
        time.sleep(0.2)
    assert values() == [0.5, 0.4]
