"""With a proxy in the environment, this machine is reached directly and others by the proxy."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from sft.errors import BadInput
from sft.run.client import Service
from sft.service import proxies
from tests.finished_run import finished_run
from tests.test_ui import unused_port

NOBODY = "http://127.0.0.1:9"
NAMES = [*proxies.PROXIES, *proxies.EXCEPTIONS]
NAMES += [name.lower() for name in NAMES]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in NAMES:  # set first, so that what the code under test sets is undone, too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@contextlib.contextmanager
def serving(handler, host="127.0.0.1"):
    """The port of a server in a thread of its own."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    with Server((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def forwarding(target, host="127.0.0.1"):
    """The port of a server, or proxy, that hands every request to `target`, and what it was
    asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self):
            asked.append(self.path)
            parts = urlsplit(self.path)
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection = HTTPConnection(urlsplit(target).netloc, timeout=60)
            connection.request(self.command, path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_POST = forward

        def log_message(self, *arguments):
            pass

    with serving(Handler, host) as port:
        yield port, asked


@pytest.mark.parametrize(
    "variables",
    [
        {"HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, "ALL_PROXY": NOBODY},
        {"http_proxy": NOBODY, "all_proxy": "socks5://127.0.0.1:9", "no_proxy": "intranet"},
    ],
    ids=["upper case", "lower case, SOCKS"],
)
@pytest.mark.slow
def test_a_run_on_the_local_service_needs_no_proxy(variables, tmp_path, tiny_model, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    directory = finished_run(tmp_path, tiny_model, "max_steps=2")
    assert json.loads((directory / "run.json").read_text())["status"] == "FINISHED"


@pytest.fixture
def models_at(local_service, monkeypatch):
    """The models that the SDK is told of by the tests' service, behind a URL."""
    from sft.service.child import api_key

    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))

    async def ask(url):
        api = await Service.reach(url)
        answer = await api.rest.get_server_capabilities()
        return [model.model_name for model in answer.supported_models]

    return lambda url: asyncio.run(ask(url))


@pytest.mark.parametrize("proxy", [NOBODY, "socks5://127.0.0.1:9", "socks://127.0.0.1:9"])
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_the_sdk_asks_a_service_on_a_loopback_address_directly(
    host, proxy, local_service, models_at, monkeypatch
):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    with forwarding(local_service, host) as (port, asked):
        name = f"[{host}]" if ":" in host else host
        assert models_at(f"http://{name}:{port}") == ["tiny"]
        assert asked[0] == "/api/v1/healthz" and all(path.startswith("/") for path in asked)


def test_a_service_on_another_host_is_asked_through_the_proxy(
    local_service, models_at, monkeypatch
):
    with forwarding(local_service) as (port, asked):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        assert models_at("http://example.invalid") == ["tiny"]
        assert asked[0] == "http://example.invalid/api/v1/healthz" and len(asked) > 2
        assert all(path.startswith("http://example.invalid/") for path in asked)


def test_a_proxy_that_does_not_answer_is_named(models_at, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    with pytest.raises(BadInput, match=r"example\.invalid, asked through HTTP_PROXY"):
        models_at("http://example.invalid")


def test_a_kind_of_proxy_that_cannot_be_used_is_bad_input_for_another_host(models_at, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks://127.0.0.1:9")
    with pytest.raises(BadInput, match="all_proxy"):
        models_at("http://example.invalid")


def test_mlflow_is_asked_directly_on_this_machine_and_by_the_proxy_elsewhere(monkeypatch):
    from sft.tracking.store import open_client

    with answering(b'{"experiments": []}') as (proxy, through), answering(b"{}") as (port, direct):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        assert open_client(f"http://127.0.0.1:{port}").search_experiments() == []
        assert len(direct) == 1 and through == []
        assert open_client("http://example.invalid").search_experiments() == []
        assert len(through) == 1 and through[0].startswith("http://example.invalid/api/")


@contextlib.contextmanager
def answering(content):
    """The port of a server that gives every request the same answer, and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    with serving(Handler) as port:
        yield port, asked


@pytest.mark.slow
def test_the_ui_finds_its_own_server(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = os.environ | {"HTTP_PROXY": NOBODY, "ALL_PROXY": NOBODY}
    process = subprocess.Popen(
        [sys.executable, "-m", "sft.ui", "--uri", uri, "--port", str(unused_port())],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert any("MLflow UI: http" in line for line in process.stdout)
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("given", "upper", "lower"),
    [
        ({}, "127.0.0.1,localhost,::1", "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a.org"}, "a.org,127.0.0.1,localhost,::1", "a.org,127.0.0.1,localhost,::1"),
        (
            {"NO_PROXY": "a.org, localhost", "no_proxy": "b.org"},
            "a.org,localhost,127.0.0.1,::1",
            "b.org,127.0.0.1,localhost,::1",
        ),
        ({"no_proxy": "*"}, "*", "*"),
    ],
)
def test_the_users_own_exceptions_are_kept(given, upper, lower, monkeypatch):
    for name, value in (given | {"HTTP_PROXY": NOBODY}).items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        proxies.exempt_loopback()
        assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == (upper, lower)


def test_without_a_proxy_the_environment_is_left_alone(monkeypatch):
    before = dict(os.environ)
    proxies.exempt_loopback("http://127.0.0.1:1")
    assert dict(os.environ) == before
