"""Tiny random models for the engine's tests, and requests to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sft.local.engine_api import TrainingSequence

VOCAB = 97
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    initializer_range=0.15,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
ROUNDINGS = 64  # of float32 that two programs may be apart: see `assert_same_logprobs`
KINDS = ("llama", "llama-tied", "qwen3", "qwen3-tied")


def save(kind: str, folder: Path) -> str:
    """Write a random model of this kind into `folder` and return it as a string."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    family, _, tied = kind.partition("-")
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[family]
    torch.manual_seed(7)
    model = model_class(config_class(**SHAPE, tie_word_embeddings=bool(tied)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # ones would hide a norm that is left out
                weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return str(folder)


def sequences(lengths: list[int], seed: int = 0) -> list[TrainingSequence]:
    """Random tokens; weights of mixed sign and size, a third of them zero."""
    random = np.random.default_rng(seed)
    made = []
    for length in lengths:
        weights = random.normal(size=length).astype(np.float32)
        weights[random.random(length) < 0.33] = 0
        made.append(
            TrainingSequence(
                random.integers(0, VOCAB, length), random.integers(0, VOCAB, length), weights
            )
        )
    return made


def assert_same_logprobs(ours, theirs) -> None:
    """That two programs, which add up in other orders, agree as far as float32 goes.

    A logit's roundings, one for each product and sum on its way, are a share of its size, so that
    a logprob's error is one of the largest logprob's size. With these models and on each of several
    kinds of processor, PEFT's and the engine's are both up to 28 epsilons off what float64 gives,
    and the two may be off in opposite directions.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=roundings(np.abs(theirs).max()))


def roundings(size: float) -> float:
    """What a float32 of this size may be off for them."""
    return ROUNDINGS * float(np.finfo(np.float32).eps) * float(size)
