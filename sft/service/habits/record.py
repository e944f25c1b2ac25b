"""What one server does in its own way, and what is done about it: said once, by topic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


LORA = ("lora.train_mlp", "lora.train_attn", "lora.train_unembed")
"""Settings that say which modules are adapted."""
ALIKE = 0.1
"""Nats by which a sampler's log-probabilities may differ from `forward`'s in size: samplers compute
with less precision, to this side and to that."""
BIAS = 0.01
"""Nats by which they may differ to one side: so much every `eval/nll` would be off."""


@dataclass(frozen=True)
class Difference:
    """Of a sampler's log-probabilities from those of `forward`, in nats."""

    largest: float
    size: float
    """The mean of the sizes."""
    mean: float
    """With its sign: what is above 0 makes an NLL too low."""
    standard_error: float
    """Of `mean`."""

    @property
    def is_alike(self) -> bool:
        """Whether an NLL may come from the sampler."""
        return self.size < ALIKE and abs(self.mean) <= max(BIAS, 2 * self.standard_error)

    def __str__(self) -> str:
        return f"by up to {self.largest:.3g} nats, by {self.mean:+.2g} in the mean"


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
    difference: Difference | None = None
    """Of what they say."""
    heeded: set[str] = field(default_factory=set)
    """Settings that were seen to have an effect."""
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
        if not (self.heeded - self.ignored.keys()).issuperset(LORA):
            # As far as is known, it adapts other modules than those that were counted.
            found["trained_parameters"] = None
        return found | {"without_effect": [*facts.get("without_effect", ()), *without]}

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        found = {"url": self.url, "repairs": dict(self.repairs), "ignored": dict(self.ignored)}
        return found | ({"sampler": asdict(self.difference)} if self.difference else {})
