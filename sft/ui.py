"""`python -m sft.ui`: the MLflow UI on this machine, with the store that runs log to.

python -m sft.ui                          # MLFLOW_TRACKING_URI or mlflow.db, as for runs
python -m sft.ui faq                      # the runs of the experiment faq
python -m sft.ui --uri sqlite:////data/mlflow.db --port 5001
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

from sft.command.main import command, new_parser
from sft.display.stages import shown
from sft.errors import BadInput
from sft.secrets import mask_urls
from sft.service.proxies import exempt_loopback
from sft.tracking import view
from sft.tracking.store import Store, absolute, check_uri, open_client, sqlite_file, tracking_uri

HOST = "127.0.0.1"
PORT = 5000
START_SECONDS = 120


@command("sft.ui")
def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit code."""
    parser = new_parser("sft.ui", __doc__.splitlines()[0])
    parser.add_argument(
        "experiment", nargs="?", help="whose runs to link to (default: the last one trained in)"
    )
    parser.add_argument("--uri", help="the store (default: as for runs)")
    parser.add_argument("--port", type=int, help=f"default {PORT}, or a free one where it is taken")
    options = parser.parse_args(argv)
    uri = tracking_uri(options.uri)
    check_uri(uri)
    if uri.startswith(("http:", "https:")):
        raise BadInput(f"--uri: {uri} is a server with its own UI: open it in a browser")
    port = free_port(options.port)
    return serve(absolute(uri), port, options.experiment)


def free_port(wanted: int | None) -> int:
    """`wanted`, or 5000, or a free port if 5000 is taken.

    Raises `BadInput` if the `wanted` port is taken.
    """
    for port in [wanted] if wanted else [PORT, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return probe.getsockname()[1]
    raise BadInput(f"--port: {wanted} cannot be used on {HOST}; leave it out to get a free one")


def serve(uri: str, port: int, experiment: str | None = None) -> int:
    """Run the MLflow server in a child process, link to the runs in it, and end with it."""
    if sqlite_file(uri):
        Store(uri).client()  # made under our lock: the server would break a fresh one
    url = f"http://{HOST}:{port}"
    exempt_loopback(url)  # for this process and for the server's own workers
    runs = view.link(open_client(uri), url, experiment)
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
        + ["--workers", "1"],
        env={**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
        if signal.getsignal(number) == signal.SIG_DFL:  # else the server would outlive this process
            signal.signal(number, _interrupt)
    try:
        with shown(f"starting the MLflow UI for {mask_urls(uri)}", lines=True):
            is_there = _answers(url, server)
        if not is_there:
            print("error: the MLflow UI did not start", file=sys.stderr)
            print(_last_words(server), file=sys.stderr)
            return 1
        if runs is None:
            print("no run is logged there yet: python -m sft makes one", flush=True)
        print(f"MLflow UI: {runs or url}    (Ctrl-C ends it)", flush=True)
        for _ in server.stderr or ():  # its log: requests and job runners
            pass
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end(server)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _answers(url: str, server: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=2) as reply:
                if reply.status == 200:
                    return True
        except (URLError, OSError):
            time.sleep(0.2)
    return False


def _last_words(server: subprocess.Popen[str]) -> str:
    _end(server)
    words = server.stderr.read() if server.stderr else ""
    return mask_urls("\n".join(words.strip().splitlines()[-5:]))


def _end(server: subprocess.Popen[str]) -> None:
    """End the server and the workers it started."""
    try:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(5)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    server.wait()


if __name__ == "__main__":
    raise SystemExit(main())
