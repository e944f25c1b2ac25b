"""What one server does in its own way, and what is done about it: said once, by topic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass
class Habits:
    """Of the server at `url`. What was not asked yet is None."""

    url: str
    repairs: dict[str, str] = field(default_factory=dict)
    """What is made up for: topic and sentence."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Settings that the server ignores, by key, and what it does instead."""
    samples_apart: bool | None = None
    """Sampling from saved weights leaves the adapter that they were saved from as it is."""
    samples_alike: bool | None = None
    """`compute_logprobs` says what `forward` says."""
    unloading_loses_checkpoints: bool | None = None
    repeats_act_twice: bool | None = None
    can_unload: bool | None = None

    @property
    def measured_on_copies(self) -> bool:
        """Whether evaluations must not ask the server's own sampling of the trained adapter."""
        return self.samples_apart is False or self.samples_alike is False

    def say(self, topic: str, sentence: str) -> None:
        """Record a repair, once."""
        if topic not in self.repairs:
            self.repairs[topic] = sentence
            logger.info("%s: %s", topic, sentence)

    def sentences(self) -> list[str]:
        """The repairs as lines for people."""
        return [f"{topic}: {sentence}" for topic, sentence in self.repairs.items()]

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What of a run's `facts` is otherwise on this server, and what is said of it."""
        without = [f"{key}: {sentence}" for key, sentence in self.ignored.items()]
        found: dict[str, Any] = {"habits": self.sentences()}
        if any(key.startswith("lora.") for key in self.ignored):
            found["trained_parameters"] = None
        return found | {"without_effect": [*facts.get("without_effect", ()), *without]}

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {"url": self.url, "repairs": dict(self.repairs), "ignored": dict(self.ignored)}
