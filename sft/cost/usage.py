"""Tokens by the kinds that are billed apart, and what a request uses of them.

Hosted Tinker bills every token that `forward_backward` is given as training, prompts included. A
prompt is prefill, or cached prefill for what the service finds in its prefix cache; what is
generated is sample. `compute_logprobs` is a prompt behind which one token is generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tinker


@dataclass(frozen=True)
class Usage:
    """Tokens, by kind; those of several requests can be added.

    >>> Usage(train=10) + Usage(train=5, sample=1)
    Usage(train=15, prefill=0, cached_prefill=0, sample=1)
    """

    train: int = 0
    prefill: int = 0
    cached_prefill: int = 0
    sample: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))

    def __mul__(self, times: int) -> Usage:
        return Usage(*(getattr(self, kind) * times for kind in KINDS))

    def without(self, used: Usage) -> Usage:
        """What is left of the most that may be used; what the cache gave was asked as prefill.

        >>> Usage(prefill=10, sample=4).without(Usage(prefill=2, cached_prefill=3, sample=9))
        Usage(train=0, prefill=5, cached_prefill=0, sample=0)
        """
        return Usage(
            max(0, self.train - used.train),
            max(0, self.prefill - used.prefill - used.cached_prefill),
            self.cached_prefill,
            max(0, self.sample - used.sample),
        )

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Usage:
        """From what `to_json` gave, perhaps among other things."""
        return cls(**{kind: int(kept.get(kind) or 0) for kind in KINDS})


KINDS = tuple(item.name for item in fields(Usage))
NOTHING = Usage()


def of_logprobs(prompt: int) -> Usage:
    """Of one `compute_logprobs` over `prompt` tokens."""
    return Usage(prefill=prompt, sample=1)


def of_sample(response: tinker.SampleResponse, prompt: int) -> Usage:
    """Of one answered `sample` behind `prompt` tokens. Of several samples of one prompt, all but
    the first find it in the cache."""
    hits = min(response.prompt_cache_hit_tokens or 0, prompt)
    further = max(0, len(response.sequences) - 1) * prompt
    sampled = sum(len(sequence.tokens) for sequence in response.sequences)
    return Usage(prefill=prompt - hits, cached_prefill=hits + further, sample=sampled)
