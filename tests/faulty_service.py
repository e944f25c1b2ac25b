"""A server that passes requests on to a service and answers some of them with an error itself.

    with faulty_service.before(url, {"POST /api/v1/optim_step": 500}) as faulty_url: ...

For faults of other people's servers, which the local service has not.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "host")


class Faulty(ThreadingHTTPServer):
    """`faults` maps a regular expression of "METHOD /path" to the status that it is answered with,
    but for the first `passing` of its requests; `seen` counts the requests that were answered so.
    """

    daemon_threads = True

    def __init__(self, url: str, faults: dict[str, int], passing: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(url)
        self.faults = faults
        self.passing = Counter(dict.fromkeys(faults, passing))
        self.seen: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Forwarding(BaseHTTPRequestHandler):
    """Sends requests on to the service that `server.behind` names."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of the service's answer to this request with `body`."""
        behind = http.client.HTTPConnection(self.server.behind.hostname, self.server.behind.port)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
        behind.request(self.command, self.path, body, headers)
        reply = behind.getresponse()
        content = reply.read()
        behind.close()
        return reply.status, dict(reply.getheaders()), content

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


class _Handler(Forwarding):
    server: Faulty

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        wanted = f"{self.command} {self.path.partition('?')[0]}"
        for pattern, status in self.server.faults.items():
            if re.fullmatch(pattern, wanted):
                self.server.passing[pattern] -= 1
                if self.server.passing[pattern] >= 0:
                    break
                self.server.seen[pattern] += 1
                content = b'{"detail": "for the test"}'
                self.answer(status, {"content-type": "application/json"}, content)
                return
        self.answer(*self.forwarded(body))

    do_GET = do_POST = do_PUT = do_DELETE = _any


@contextlib.contextmanager
def before(url: str, faults: dict[str, int], passing: int = 0) -> Iterator[Faulty]:
    """A faulty server before the service at `url`."""
    server = Faulty(url, faults, passing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
