"""What a loss is to the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tinker


class Loss(Protocol):
    """What a step minimises. One of another kind is a file here and a line in `LOSSES`."""

    def forward_backward(self, client: tinker.TrainingClient, data: list[tinker.Datum]) -> Any:
        """Queue forward and backward of `data`; returns the SDK's future.

        The answer to each datum holds `logprobs`, one for each target: `train/nll` is made of them
        for every loss. The request takes its place in the service's queue before this returns.
        """
        ...
