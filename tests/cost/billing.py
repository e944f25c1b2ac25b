"""A service that computes nothing and bills: it counts the tokens that reach its engine."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sft.cost.usage import KINDS
from tests.local.stub import StubEngine, serving_stub

PRICES = {"train": 1000.0, "prefill": 300.0, "cached_prefill": 60.0, "sample": 2000.0}
"""USD per million tokens."""


class BillingEngine(StubEngine):
    """Counts in `billed` what it is given to train on, to read and what it says."""

    def __init__(self):
        super().__init__()
        self.billed: Counter[str] = Counter()

    def run(self, work, steps=()):
        self.billed["train"] += sum(
            len(sequence.tokens) for item in work if item.backward for sequence in item.sequences
        )
        return super().run(work, steps)

    def sample(self, work):
        answers = super().sample(work)
        for item, answer in zip(work, answers, strict=True):
            self.billed["prefill"] += len(item.prompt)
            self.billed["sample"] += sum(len(said.tokens) for said in answer.sequences)
        return answers

    @property
    def usd(self) -> float:
        return sum(self.billed[kind] * PRICES[kind] for kind in KINDS) / 1e6


@contextlib.contextmanager
def billing_service(root: Path) -> Iterator[tuple[str, BillingEngine]]:
    with serving_stub(root, BillingEngine()) as (url, _, engine):
        yield url, engine


class _Bills(BaseHTTPRequestHandler):
    """Answers as the provider's billing does, of one session, and is well otherwise."""

    server: ThreadingHTTPServer

    def do_GET(self) -> None:
        is_bill = self.path.startswith("/api/v1/billing/usage/events")
        content = json.dumps(self.server.bill if is_bill else {}).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def provider(sessions: dict[str, dict[str, int]]) -> Iterator[str]:
    """The URL of a provider that has billed each session for so many tokens by kind."""
    types = {"train": "training", "sample": "sampling_sample"}
    events = [
        {
            "bucket_start": "2026-11-26T00:00:00Z",
            "bucket_end": "2026-11-26T01:00:00Z",
            "session_id": session,
            "estimated_cost_usd": count * PRICES[kind] / 1e6,
            "event_info": {
                "type": types.get(kind, "sampling_prefill"),
                "token_count": count,
                **({} if kind in types else {"cached": kind == "cached_prefill"}),
            },
        }
        for session, usage in sessions.items()
        for kind, count in usage.items()
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Bills)
    server.bill = {"data": events, "sessions": {}}  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
