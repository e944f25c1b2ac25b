"""A share of right answers as a metric, and the examples that it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sft.record.examples import Examples, digest_of, share_of


@dataclass
class Share:
    """Base of evaluators that judge each row of their table: `eval/NAME/accuracy`."""

    name: str = field(kw_only=True)
    table: list[dict[str, Any]] = field(default_factory=list, kw_only=True)
    examples: dict[str, Examples] = field(default_factory=dict, kw_only=True)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured."""
        return (f"eval/{self.name}/accuracy",)

    def measured(self, asked: Iterable[object]) -> dict[str, float]:
        """The share of rows of `table` that are right; `asked` is what they answer, and how they
        were judged: judged in another way it is another measure."""
        [metric] = self.metrics
        self.examples = {metric: share_of([row["right"] for row in self.table], digest_of(asked))}
        return {metric: self.examples[metric].value}
