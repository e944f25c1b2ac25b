"""What the scheduler asks of an engine, and nothing about how it is done.

The scheduler knows requests, order and time; the engine knows models and arithmetic. Between them
go only the plain values of this file, which imports no torch: a stub engine for tests is a small
class. A result never depends on what else is in the lists of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from sft.local.losses import CrossEntropy, Loss


class EngineError(Exception):
    """A request that the engine cannot answer; `user` says whether the request itself is at fault.

    Returned in the place of one result if the others of the call stand; raised if the whole call
    fails. The message is a sentence that the user of the SDK reads.
    """

    def __init__(self, message: str, user: bool = True):
        super().__init__(message)
        self.message = message
        self.user = user


@dataclass(frozen=True)
class ModelInfo:
    """A base model that is served: its public name, context in tokens, where its tokenizer is."""

    name: str
    max_context_length: int
    tokenizer_id: str  # a Hub name or a local folder, as `AutoTokenizer.from_pretrained` takes


@dataclass(frozen=True)
class LoraSpec:
    """Shape of an adapter. `seed` None: drawn at random."""

    rank: int
    seed: int | None = None
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True


@dataclass(frozen=True)
class TrainingSequence:
    """One datum, decoded from the wire: T tokens, and one target or K of them after each.

    `weights` and `sampled` have the shape of `targets`.
    """

    tokens: np.ndarray  # int64 [T]: the model's input
    targets: np.ndarray  # int64 [T] or [T, K]: what it should say after each token
    weights: np.ndarray  # float32: of each target in the loss, of any sign; or its advantage
    sampled: np.ndarray | None = None  # float32: its logprob when it was sampled; of policies alone


@dataclass(frozen=True)
class Work:
    """One forward (`backward` False) or forward_backward request of one adapter."""

    model_id: str
    sequences: list[TrainingSequence]
    backward: bool
    loss: Loss = CrossEntropy()


@dataclass(frozen=True)
class WorkResult:
    """`logprobs`: float32 for each sequence, shaped as its targets. `loss_sum`: the loss.

    Of a forward every logprob is real, also at weight zero: the SDK computes custom losses on the
    client from them. Of a forward_backward with cross entropy those at weight zero may be 0.0.
    """

    logprobs: list[np.ndarray]
    loss_sum: float


@dataclass(frozen=True)
class AdamStep:
    """One AdamW update of one adapter. `grad_clip_norm` 0: no clipping."""

    model_id: str
    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True)
class Answers:
    """To the work and the steps of one call, each in its place; `steps`: metrics by name."""

    work: list[WorkResult | EngineError]
    steps: list[dict[str, float] | EngineError]


@dataclass(frozen=True)
class AdapterState:
    """A copy of an adapter, safe to hand to another thread; float32 numpy arrays on the CPU.

    `weights` is named as PEFT names them (base_model.model.model.layers.0.self_attn.q_proj.
    lora_A.weight); `optimizer` holds "exp_avg.<name>", "exp_avg_sq.<name>" and "step", or is None
    if it was not asked for.
    """

    base_model: str
    lora: LoraSpec
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class SampleWork:
    """`num_samples` continuations of one prompt, and its logprobs if asked for.

    `max_tokens` 0 samples nothing and None goes up to the model's context. `top_k` -1 and `top_p`
    1 filter nothing; `temperature` 0 is greedy. Sample i of a request is seeded by (seed, i): it
    does not depend on what else is sampled beside it. A stop sequence ends a sample and is part of
    its tokens. `stop_at_eos`: the model's own end-of-text tokens end it as well (False if the
    client said `stop=[]`).
    """

    sampler_id: str
    prompt: list[int]
    num_samples: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    seed: int | None = None
    stop_strings: list[str] = field(default_factory=list)
    stop_token_ids: list[list[int]] = field(default_factory=list)
    stop_at_eos: bool = True
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: np.ndarray | None = None  # int64 [len(prompt) - 1, K], -1: none


@dataclass(frozen=True)
class SampledTokens:
    tokens: list[int]
    logprobs: list[float]  # of the tokens, under the untempered distribution, one each
    stop_reason: Literal["stop", "length"]
    topk: list[list[tuple[int, float]]] | None = None  # of each token's place, likeliest first


@dataclass(frozen=True)
class SampleResult:
    """`prompt_logprobs`: one a prompt token, the first None; `topk_prompt_logprobs`: likewise,
    each a list of (token, logprob), likeliest first. `target_prompt_logprobs`: float32, of the ids
    asked for, in their places, 0 where there was none. None if not asked for."""

    sequences: list[SampledTokens]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: list[list[tuple[int, float]] | None] | None = None
    target_prompt_logprobs: np.ndarray | None = None


class Engine(Protocol):
    """Called from one thread only, the scheduler's engine thread.

    A call that fails as a whole raises `EngineError`. A call that takes a list answers each item
    with a result or an `EngineError`, in the list's order.
    """

    def models(self) -> list[ModelInfo]:
        """The base models that are served. May also be called from other threads."""
        ...

    def warnings(self) -> list[str]:
        """What somebody who trains here should know, a sentence each; called first of all."""
        ...

    def create_adapter(self, model_id: str, base_model: str, lora: LoraSpec) -> None:
        """A fresh adapter: A seeded, B zero, no optimizer state."""
        ...

    def drop_adapter(self, model_id: str) -> None:
        """Frees the adapter with its gradients and optimizer state; unknown ids are ignored."""
        ...

    def run(self, work: list[Work], steps: Sequence[AdamStep] = ()) -> Answers:
        """Everything queued when a cycle starts; gradients add up in each adapter.

        An item that fails leaves its adapter's gradients as they were before it. Then at most one
        step for each adapter, taken once all work of the adapter is done (also while that of others
        is not); it clears the adapter's gradients. A step is refused if work with a backward of its
        adapter has failed.
        """
        ...

    def state(self, model_id: str, optimizer: bool) -> AdapterState: ...

    def load(self, model_id: str, state: AdapterState, optimizer: bool) -> None:
        """Replaces the weights and clears gradients; replaces the optimizer's state, or resets it.

        Raises `EngineError` if the state is of another base model, rank or set of modules.
        """
        ...

    def add_sampler(self, sampler_id: str, base_model: str, state: AdapterState | None) -> None:
        """A frozen copy to sample from; None is the base model itself."""
        ...

    def drop_sampler(self, sampler_id: str) -> None:
        """Frees the copy; unknown ids are ignored."""
        ...

    def sample(self, work: list[SampleWork]) -> list[SampleResult | EngineError]: ...
