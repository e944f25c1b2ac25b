"""Addresses of MLflow stores: which are bad input, and what of them is written down."""

import os
import socket
import threading

import pytest

from sft import tracking
from sft.errors import BadInput
from sft.tracking.store import Store, check_uri, open_client
from tests.tracking.tracked_run import TrackedRun


@pytest.mark.parametrize(
    "uri, said",
    [
        ("sqllite:///mlflow.db", "did you mean 'sqlite'"),
        ("mlruns", "plain folders"),
        ("file:///tmp/mlruns", "plain folders"),
        ("sqlite://mlflow.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:////dev/null/mlflow.db", "not a writable folder"),
        ("http://", "names no host"),
        ("http://host:port", "not a URL"),
        ("http:host", "names no host"),
        ("http://a host:5000", "space"),
        ("postgresql+nodriver://host/db", "pip install nodriver"),
        ("ftp://host", "unknown scheme"),
    ],
)
def test_a_uri_that_can_never_work_is_bad_input(uri, said):
    with pytest.raises(BadInput, match="tracking.uri") as caught:
        tracking.check_uri(uri)
    assert said in str(caught.value)


def test_a_file_that_is_no_database_is_bad_input_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("these are my notes, not a database")
    with pytest.raises(BadInput, match="not an SQLite database"):
        tracking.MlflowHook(f"sqlite:///{tmp_path / 'notes.txt'}", "tests")
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "http://127.0.0.1:5000", "https://host/path", "databricks"]
)
def test_a_uri_that_may_work_is_not_contacted(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracking.check_uri(uri)
    assert os.listdir(tmp_path) == []


def test_passwords_in_a_uri_are_not_written_down(tmp_path):
    run = TrackedRun(tmp_path / "run", "http://me:hunter2@127.0.0.1:9").start()
    tracking.flush(10)
    assert "hunter2" not in (tmp_path / "run" / "mlflow.json").read_text()
    run.hook._mirror.closed = True


@pytest.mark.parametrize("uri", ["mysql://me@host/db", "postgresql+nosuch://me@host/db"])
def test_a_database_whose_driver_is_not_there_is_bad_input_before_the_start(uri):
    with pytest.raises(BadInput, match="pip install (mysqlclient|nosuch)"):
        check_uri(uri)


@pytest.fixture
def hangs_up():
    """The address of a server that ends every connection."""

    def serve():
        while True:
            try:
                listening.accept()[0].close()
            except OSError:  # the end of the test
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("is_there, words", [(False, "refused"), (True, "onnection")])
def test_of_a_request_that_fails_only_the_cause_is_said(hangs_up, is_there, words):
    store = Store(hangs_up if is_there else "http://127.0.0.1:9")
    with pytest.raises(Exception) as caught:
        open_client(store.uri).search_experiments()
    assert "Max retries exceeded" in str(caught.value)
    store.failed(caught.value)
    assert words in store.error and len(store.error) < 100 and "retries" not in store.error
