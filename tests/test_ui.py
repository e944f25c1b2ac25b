import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import pytest

from sft import ui
from sft.errors import BadInput
from sft.tracking import view
from sft.tracking.store import open_client
from tests.finished_run import finished_run


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_the_ui_serves_the_store_of_runs_and_says_where(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    # Another test's may be at the usual port.
    process = subprocess.Popen(
        [sys.executable, "-m", "sft.ui", "--uri", uri, "--port", str(unused_port())],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = next(line for line in process.stdout if "MLflow UI" in line and "http" in line)
        url = url.split()[2]
        assert url.startswith("http://127.0.0.1:")
        assert "<html" in urlopen(url).read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    with pytest.raises(OSError):
        urlopen(url)
    assert (tmp_path / "mlflow.db").exists()


def test_a_free_port_is_taken_where_5000_is_not():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", ui.PORT))
            taken.listen()
        except OSError:
            pass  # taken by something else: as good
        assert ui.free_port(None) != ui.PORT


def test_a_port_asked_for_that_is_taken_is_bad_input():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInput, match="--port"):
            ui.free_port(taken.getsockname()[1])


def test_the_link_is_to_the_runs_of_the_experiment_last_trained_in_or_named(tmp_path, tiny_model):
    finished_run(tmp_path, tiny_model, "tracking.experiment=early", directory="early")
    finished_run(tmp_path, tiny_model, "tracking.experiment=late", directory="late")
    client = open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for asked, shown in [(None, "late"), ("late", "late"), ("early", "early")]:
        experiment = client.get_experiment_by_name(shown).experiment_id
        link = view.link(client, "http://127.0.0.1:5000", asked)
        assert link.startswith(f"http://127.0.0.1:5000/#/experiments/{experiment}/runs?")
        assert "workflowType=machine_learning" in link
    with pytest.raises(BadInput, match="'lat' is not one of .*; did you mean 'late'"):
        view.link(client, "http://127.0.0.1:5000", "lat")


def test_a_bad_store_is_one_sentence_and_exit_code_2(capsys):
    assert ui.main(["--uri", "nonsense"]) == 2
    assert "sft.ui: tracking.uri" in capsys.readouterr().err
