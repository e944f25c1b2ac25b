"""Choosing the next token: temperature, top-k, top-p and stopping, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sft.local.engine_api import EngineError, SampledTokens, SampleWork


def check(work: SampleWork, vocab: int, context: int) -> None:
    """Refuse a request that cannot be answered.

    Raises `EngineError`: the name of the value, what it is and what was expected.
    """
    check_tokens("the prompt", work.prompt, vocab, context)
    values = (
        ("num_samples", work.num_samples, "1 or more", work.num_samples >= 1),
        ("max_tokens", work.max_tokens, "0 or more", (work.max_tokens or 0) >= 0),
        ("temperature", work.temperature, "0 (greedy) or more", work.temperature >= 0),
        ("top_k", work.top_k, "-1 (off) or 1 or more", work.top_k == -1 or work.top_k >= 1),
        ("top_p", work.top_p, "more than 0, at most 1", 0 < work.top_p <= 1),
        *(
            (name, k, f"0 to {vocab}", 0 <= k <= vocab)
            for name, k in (
                ("topk_prompt_logprobs", work.topk_prompt_logprobs),
                ("topk_sample_logprobs", work.topk_sample_logprobs),
            )
        ),
    )
    for name, value, expected, good in values:
        if not good:
            raise EngineError(f"{name} of the sampling request is {value}: expected {expected}.")
    targets = work.target_prompt_logprobs
    if targets is not None and targets.size and targets.max() >= vocab:
        raise EngineError(
            f"target_prompt_logprobs holds the token id {targets.max()}: expected -1 to {vocab - 1}"
        )


def likeliest(logprobs: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """The k likeliest tokens under each row of logprobs [n, vocab], likeliest first."""
    values, ids = logprobs.topk(k, dim=-1)
    rows = zip(ids.tolist(), values.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


def check_tokens(what: str, tokens: Sequence[int] | np.ndarray, vocab: int, context: int) -> None:
    """Raises `EngineError` if `tokens` are none, too many, or not all in the vocabulary."""
    if len(tokens) == 0:
        raise EngineError(f"{what} is empty: expected at least one token.")
    if len(tokens) > context:
        raise EngineError(
            f"{what} has {len(tokens)} tokens, more than the model's context of {context}: "
            "shorten it."
        )
    least, most = int(np.min(tokens)), int(np.max(tokens))
    if least < 0 or most >= vocab:
        wrong = least if least < 0 else most
        raise EngineError(
            f"{what} holds the token id {wrong}: expected 0 to {vocab - 1}, the model's "
            "vocabulary. Was it made with another model's tokenizer?"
        )


@dataclass
class Sampler:
    """One sample of a request: its random numbers, what it chose so far, and when it ends.

    Logprobs are those of the distribution the model gives, before temperature, top-k and top-p.
    """

    work: SampleWork
    limit: int  # tokens at most
    eos: frozenset[int]
    decode: Callable[[list[int]], str]
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    topk: list[list[tuple[int, float]]] = field(default_factory=list)
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or len(self.tokens) >= self.limit

    def take(self, logits: Tensor) -> int:
        """Choose from float32 logits [vocab], note the token and return it."""
        logprobs = torch.log_softmax(logits, dim=-1)
        token = self._choose(logprobs)
        self.tokens.append(token)
        self.logprobs.append(float(logprobs[token]))
        if self.work.topk_sample_logprobs:
            self.topk += likeliest(logprobs[None], self.work.topk_sample_logprobs)
        self.stopped = self._ends(token)
        return token

    def result(self) -> SampledTokens:
        topk = self.topk if self.work.topk_sample_logprobs else None
        return SampledTokens(self.tokens, self.logprobs, "stop" if self.stopped else "length", topk)

    def _choose(self, logprobs: Tensor) -> int:
        if self.work.temperature == 0:
            return int(logprobs.argmax())
        scaled = logprobs / self.work.temperature
        if self.work.top_k == -1 and self.work.top_p == 1:
            return _draw(torch.softmax(scaled, dim=-1), self.generator)
        # Likeliest first; ties by token id: a seed means the same on every machine.
        ordered, ids = torch.sort(scaled, descending=True, stable=True)
        if self.work.top_k != -1:
            ordered = ordered[: self.work.top_k]
        chances = torch.softmax(ordered, dim=-1)
        # Nucleus: the fewest tokens whose chances sum to top_p (Holtzman et al. 2020).
        before = chances.cumsum(dim=-1) - chances
        chances = chances[before < self.work.top_p] if self.work.top_p < 1 else chances
        return int(ids[_draw(chances, self.generator)])

    def _ends(self, token: int) -> bool:
        if self.work.stop_at_eos and token in self.eos:
            return True
        for stop in self.work.stop_token_ids:
            if stop and self.tokens[-len(stop) :] == list(stop):
                return True
        if not self.work.stop_strings:
            return False
        # A stop string ends in the newest token and takes at most a token for each byte.
        tail = max(len(stop.encode()) for stop in self.work.stop_strings) + 8
        text = self.decode(self.tokens[-tail:])
        return any(stop in text for stop in self.work.stop_strings)


def _draw(chances: Tensor, generator: torch.Generator) -> int:
    """The index at which the cumulated chances pass a uniform random number."""
    cumulated = chances.double().cumsum(dim=-1)
    point = torch.rand((), generator=generator, dtype=torch.float64) * cumulated[-1].cpu()
    index = int(torch.searchsorted(cumulated, point.to(cumulated.device), right=True))
    return min(index, len(chances) - 1)
