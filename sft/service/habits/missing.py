"""Endpoints that a server need not have: what is answered in their place, and what that costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sft.service.habits.record import Habits
from sft.service.habits.upstream import Answer

CHECKPOINT = r"/api/v1/training_runs/[^/]+/checkpoints/.+"


@dataclass(frozen=True)
class Missing:
    """An endpoint without which a run goes on."""

    topic: str
    sentence: str
    answer: Any


ENDPOINTS: dict[str, Missing] = {
    "POST /api/v1/sessions/[^/]+/finish": Missing("end of a session", "not told to the server", {}),
    "POST /api/v1/session_heartbeat": Missing("heartbeat", "not sent", {}),
    "POST /api/v1/telemetry": Missing("telemetry", "not sent", {"status": "accepted"}),
    "POST /api/v1/client/config": Missing("settings for clients", "the SDK's own", {}),
    "POST /api/v1/client/dynamic_config": Missing(
        "settings for clients on the way", "the SDK's own", {}
    ),
    "POST /api/v1/cancel_future": Missing("cancelling", "requests are not cancelled", {}),
    f"PUT {CHECKPOINT}/ttl": Missing("life of checkpoints", "they stay until they are deleted", {}),
    f"DELETE {CHECKPOINT}": Missing("deleting checkpoints", "they stay on the server", {}),
}
"""By a regular expression of the method and the path."""


def stand_in(habits: Habits, method: str, path: str, answer: Answer) -> Answer:
    """`answer`, or what stands for it if the server has no such endpoint and needs none."""
    if not answer.is_missing:
        return answer
    for pattern, missing in ENDPOINTS.items():
        if re.fullmatch(pattern, f"{method} {path}"):
            habits.say(missing.topic, missing.sentence)
            return Answer.of(missing.answer)
    return answer
