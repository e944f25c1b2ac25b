"""The local service behind a server that lacks half of today's API, as older servers do.

    with poor_service.before(url, key, "no_ids", "strict") as poor_url: ...

Each name takes one thing away. What is left is computed by the real service.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy
from tinker.proto import tinker_public_pb2 as pb

from tests.faulty_service import Forwarding

OPTIONAL = (
    r"POST /api/v1/(client/config|client/dynamic_config|telemetry|cancel_future)",
    r"POST /api/v1/sessions/[^/]+/finish",
    r"(PUT|DELETE) /api/v1/training_runs/.+",
)
NUMBERED = ("forward_backward", "optim_step", "save_weights", "save_weights_for_sampler")
"""Requests of a model, done in the order of their numbers."""
UNKNOWN = {"create_model": ["optimizer_config"], "save_weights_for_sampler": ["kind"]}

HABITS = (
    "saves_nothing",
    "no_endpoints", "no_ids", "no_first_logprob", "strict", "no_create_by_load", "model_id",
    "json_only", "small_ranks", "adapts_all", "never_unembeds", "samples_wrong", "samples_low",
    "no_lives", "acts_twice",
)  # fmt: skip


class Poor(ThreadingHTTPServer):
    """`lacks` are some of `HABITS`; `asked` counts the requests by method and path."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, url: str, lacks: tuple[str, ...]):
        assert set(lacks) <= set(HABITS)
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.lacks = urlsplit(url), set(lacks)
        self.asked: Counter[str] = Counter()
        self.sampled: set[str] = set()
        """Promises of sampling."""
        self.repeated: Counter[str] = Counter()
        """Requests that came twice and were done twice, by model."""
        self._done: set[tuple[str, str, int]] = set()
        self._to_lose: list[tuple[str, int]] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def lose(self, endpoint: str, status: int) -> None:
        """Do the next request to `endpoint`, and answer it with `status`, as a gateway may."""
        self._to_lose.append((endpoint, status))

    def lost(self, endpoint: str) -> int | None:
        """The status of an answer that is lost."""
        with self._lock:
            if not self._to_lose or self._to_lose[0][0] != endpoint:
                return None
            return self._to_lose.pop(0)[1]

    def done_again(self, endpoint: str, body: bytes) -> bytes:
        """A request under a number that the service behind has not seen."""
        is_json = endpoint != "forward_backward"
        message = json.loads(body) if is_json else pb.ForwardBackwardRequest.FromString(body)
        model = message["model_id"] if is_json else message.model_id
        number = message["seq_id"] if is_json else message.seq_id
        with self._lock:
            self.repeated[model] += (model, endpoint, number) in self._done
            self._done.add((model, endpoint, number))
            number += self.repeated[model]
        if is_json:
            return json.dumps(message | {"seq_id": number}).encode()
        message.seq_id = number
        return message.SerializeToString()

    def refusal(self, wanted: str, body: bytes) -> tuple[int, object] | None:
        """What the poor server answers itself."""
        endpoint = wanted.rpartition("/")[2]
        if "no_endpoints" in self.lacks and any(re.fullmatch(p, wanted) for p in OPTIONAL):
            return 404, {"detail": "Not Found"}
        if "json_only" in self.lacks and endpoint == "forward_backward":
            return 500, {"detail": "Internal Server Error"}
        if "saves_nothing" in self.lacks and endpoint == "save_weights":
            return 404, {"detail": "Not Found"}
        if not wanted.startswith("POST") or endpoint == "forward_backward":
            return None
        message = json.loads(body or b"{}")
        if "strict" in self.lacks:
            unknown = [key for key in UNKNOWN.get(endpoint, ()) if key in message]
            if unknown:
                faults = [{"type": "extra_forbidden", "loc": ["body", key]} for key in unknown]
                return 422, {"detail": faults}
        if "no_create_by_load" in self.lacks and endpoint == "load_weights":
            if not message.get("model_id"):
                return 400, {"detail": "Missing model_id"}
        rank = (message.get("lora_config") or {}).get("rank", 0)
        if "small_ranks" in self.lacks and rank > 8:
            return 400, {"detail": f"rank {rank} is above 8"}
        return None

    def changed_request(self, wanted: str, body: bytes) -> bytes:
        if "adapts_all" in self.lacks and wanted.endswith("/create_model"):
            message = json.loads(body)
            message["lora_config"] |= dict.fromkeys(("train_mlp", "train_attn"), True)
            return json.dumps(message).encode()
        if "never_unembeds" in self.lacks and wanted.endswith("/create_model"):
            message = json.loads(body)
            message["lora_config"]["train_unembed"] = False
            return json.dumps(message).encode()
        if "no_lives" in self.lacks and wanted.endswith("/save_weights"):
            return json.dumps(json.loads(body) | {"ttl_seconds": None}).encode()
        endpoint = wanted.rpartition("/")[2]
        if "acts_twice" in self.lacks and endpoint in NUMBERED:
            return self.done_again(endpoint, body)
        return body

    def changed_answer(self, wanted: str, body: bytes, content: bytes, kind: str) -> bytes:
        if wanted.endswith("/asample"):
            answer = json.loads(content)
            self.sampled.add(answer.get("request_id", ""))
            if "no_ids" in self.lacks:
                answer.pop("sample_sequence_ids", None)
            return json.dumps(answer).encode()
        if wanted.endswith("/get_server_capabilities") and "model_id" in self.lacks:
            return content.replace(b'"model_name"', b'"model_id"')
        if wanted.endswith("/retrieve_future") and "protobuf" in kind:
            if json.loads(body)["request_id"] in self.sampled:
                return self.changed_sample(content)
        return content

    def changed_sample(self, content: bytes) -> bytes:
        message = pb.SampleResponse()
        message.ParseFromString(content)
        logprobs = numpy.frombuffer(message.prompt_logprobs, numpy.float32)
        if "samples_wrong" in self.lacks:
            logprobs = logprobs - numpy.float32(1)
        if "samples_low" in self.lacks:
            logprobs = logprobs - numpy.float32(0.05)
        if "no_first_logprob" in self.lacks:
            logprobs = logprobs[1:]
        if len(logprobs):
            message.prompt_logprobs = logprobs.tobytes()
        return message.SerializeToString()


class _Handler(Forwarding):
    server: Poor

    def _any(self) -> None:
        poor = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        wanted = f"{self.command} {self.path.partition('?')[0]}"
        poor.asked[wanted] += 1
        if (refused := poor.refusal(wanted, body)) is not None:
            status, value = refused
            self.answer(status, {"content-type": "application/json"}, json.dumps(value).encode())
            return
        status, headers, content = self.forwarded(poor.changed_request(wanted, body))
        if (lost := poor.lost(wanted.rpartition("/")[2])) is not None:
            self.answer(lost, {"content-type": "text/html"}, b"<html>Gateway</html>")
            return
        if status < 400:
            kind = {name.lower(): value for name, value in headers.items()}.get("content-type", "")
            content = poor.changed_answer(wanted, body, content, kind)
        self.answer(status, headers, content)

    do_GET = do_POST = do_PUT = do_DELETE = _any


@contextlib.contextmanager
def before(url: str, *lacks: str) -> Iterator[Poor]:
    """A poor server before the service at `url`."""
    server = Poor(url, lacks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
