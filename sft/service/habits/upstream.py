"""Asking the server behind the proxy."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

PROTOBUF = "application/x-protobuf"
POLL_SECONDS = 40.0
"""The longest wait for one answer about a result; the SDK hangs up after 45."""
WORK_SECONDS = 600.0
"""The longest wait for any other answer."""
AWAY = 503
"""What the SDK is told of a server that does not answer: it asks again, for minutes."""
TOO_LATE = 504
"""Of a question that was not answered in the time that it had."""


class Refused(Exception):
    """The server has answered a request with an error."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status = status

    @property
    def is_no_answer(self) -> bool:
        """Whether the server has said nothing, so that nothing is known of what was asked."""
        return self.status in (AWAY, TOO_LATE)


@dataclass(frozen=True)
class Answer:
    """Of a server, or of the proxy in its place."""

    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    sent: bool = True
    """The request may have reached the server."""

    @classmethod
    def of(cls, value: Any, status: int = 200) -> Answer:
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json"})

    @property
    def may_have_acted(self) -> bool:
        """Whether the server may have done what it was asked, though this says that it has failed.
        Other statuses are a server's word that it has not begun, 429 ("too many") among them; one
        of 500 and more may come from a gateway that has lost the server's answer."""
        return self.sent and (self.status in (408, 409) or self.status >= 500)

    @property
    def is_protobuf(self) -> bool:
        return self.headers.get("content-type", "").startswith(PROTOBUF)

    @property
    def is_missing(self) -> bool:
        """Whether the server has no such endpoint. FastAPI and Starlette say "Not Found" of a path
        that they do not know, and a sentence of their own if the thing behind it is not there."""
        return self.status in (405, 501) or (self.status == 404 and self.detail == "Not Found")

    @property
    def value(self) -> Any:
        """The JSON; None if it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    @property
    def detail(self) -> str:
        value = self.value
        found = value.get("detail") or value.get("error") if isinstance(value, dict) else None
        if isinstance(found, str):
            return found
        return json.dumps(found) if found else self.content[:200].decode(errors="replace")


class Upstream:
    """The server at `url`, asked with the user's `key`. To be used in one event loop."""

    def __init__(self, url: str, key: str | None, *, through_proxies: bool):
        import httpx

        self.url = url.rstrip("/")
        self._headers = {"X-API-Key": key} if key else {}
        self._headers["X-Tinker-Sampling-Backpressure"] = "1"  # as the SDK says with each sample
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(
            trust_env=through_proxies, timeout=WORK_SECONDS, limits=limits, headers=self._headers
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        seconds: float = WORK_SECONDS,
    ) -> Answer:
        """The server's answer; `AWAY` if there is none."""
        import httpx

        timeout = httpx.Timeout(seconds, connect=10.0)
        try:
            reply = await self._client.request(
                method, self.url + path, content=body, headers=headers, timeout=timeout
            )
        except httpx.ReadTimeout:
            return Answer.of({"detail": f"{path} took more than {seconds:g} s"}, 408)
        except (httpx.HTTPError, RuntimeError) as error:  # the second: the client is closed
            sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            detail = f"nothing answers at {self.url}: {type(error).__name__} {error}".rstrip()
            answer = Answer.of({"detail": detail}, AWAY)
            return Answer(AWAY, answer.content, answer.headers, sent=sent)
        kept = {k: v for k, v in reply.headers.items() if k in ("content-type", "location")}
        return Answer(reply.status_code, reply.content, kept)

    async def call(self, path: str, message: dict[str, Any]) -> Answer:
        """POST a JSON message."""
        body = json.dumps(message).encode()
        return await self.ask("POST", path, body, {"content-type": "application/json"})

    async def done(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        """POST a message whose answer promises a result; the result. Raises `Refused`."""
        return await self.result(await self.call(path, message))

    async def result(self, answer: Answer) -> dict[str, Any]:
        """The result that an answer promises, as JSON, or `{"protobuf": BYTES}`.

        Raises `Refused`.
        """
        if answer.status >= 400:
            raise Refused(answer.status, answer.detail)
        request_id = answer.value["request_id"]
        accept = {"accept": f"{PROTOBUF}, application/json", "content-type": "application/json"}
        body = json.dumps({"request_id": request_id}).encode()
        give_up = time.monotonic() + WORK_SECONDS
        while True:
            path = "/api/v1/retrieve_future"
            found = await self.ask("POST", path, body, accept, POLL_SECONDS)
            if found.status == 408 and time.monotonic() < give_up:
                continue
            if found.status >= 400:
                raise Refused(found.status, found.detail)
            if found.is_protobuf:
                return {"protobuf": found.content}
            value = found.value
            if not isinstance(value, dict):
                return {}
            if value.get("type") == "try_again":
                await asyncio.sleep(0.5)
                continue
            if value.get("error"):
                raise Refused(400, str(value["error"]))
            return value

    async def close(self) -> None:
        await self._client.aclose()
