"""Who uses the service: sessions, and the models and samplers that live and die with them.

A session that finishes, or sends no sign of life for a while, releases all that it holds. The SDK
sends a heartbeat every ten seconds.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sft.local.server.queues import Model, Sampler


class Gone(Exception):
    """What is asked for is not here, or no longer; the message says why that may be."""


@dataclass
class Session:
    session_id: str
    user_metadata: dict[str, str] | None
    display_name: str | None
    last_seen: float
    models: dict[str, Model] = field(default_factory=dict)
    samplers: dict[str, Sampler] = field(default_factory=dict)


class Sessions:
    """All sessions that are open. `on_end` is told of each one that ends, and why."""

    def __init__(
        self,
        on_end: Callable[[Session, str], None],
        *,
        timeout: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.timeout = timeout
        self._on_end = on_end
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def open(self, user_metadata: dict | None, display_name: str | None) -> Session:
        """The id is random: a training run's name is never given twice under one root."""
        metadata = user_metadata and {key: str(value) for key, value in user_metadata.items()}
        session_id = secrets.token_hex(8)
        session = Session(session_id, metadata, display_name, self._clock())
        self._sessions[session_id] = session
        return session

    def get(self, session_id: str) -> Session:
        """Also a sign of life. Raises `Gone`."""
        session = self._sessions.get(session_id)
        if session is None:
            raise Gone(
                f"session {session_id} is not open here: it has finished, sent no heartbeat for "
                f"{self.timeout:.0f} s, or was opened before the service was restarted"
            )
        session.last_seen = self._clock()
        return session

    def all(self) -> list[Session]:
        return list(self._sessions.values())

    def models(self) -> list[Model]:
        return [model for session in self._sessions.values() for model in session.models.values()]

    def samplers(self) -> list[Sampler]:
        return [one for session in self._sessions.values() for one in session.samplers.values()]

    def model(self, model_id: str) -> Model:
        """The id begins with that of its session. Raises `Gone`."""
        session = self.get(model_id.split(":")[0])
        if model_id not in session.models:
            raise Gone(f"there is no model {model_id} in session {session.session_id}")
        return session.models[model_id]

    def sampler(self, sampler_id: str) -> Sampler:
        """Raises `Gone`."""
        session = self.get(sampler_id.split(":")[0])
        if sampler_id not in session.samplers:
            raise Gone(f"there is no sampler {sampler_id} in session {session.session_id}")
        return session.samplers[sampler_id]

    def end(self, session_id: str, message: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._on_end(session, message)

    def expire(self) -> None:
        """Ends the sessions that have been silent for too long."""
        for session in self.all():
            if self._clock() - session.last_seen > self.timeout:
                self.end(
                    session.session_id,
                    f"session {session.session_id} has ended: no heartbeat for "
                    f"{self.timeout:.0f} s",
                )
