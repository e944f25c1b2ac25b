"""Cross-entropy: -sum over targets of weight x log-probability, computed by the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tinker


class CrossEntropy:
    """The loss of supervised fine-tuning, which every service computes by itself."""

    def forward_backward(self, client: tinker.TrainingClient, data: list[tinker.Datum]) -> Any:
        return client.forward_backward(data, "cross_entropy")
