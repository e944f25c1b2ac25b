"""Attention within packed sequences against softmax(q k^T) v as autograd differentiates it."""

from __future__ import annotations

import pytest
import torch

from sft.local.engine import attention

HEADS, KV_HEADS, DIM, SCALE = 6, 2, 8, 0.3
LENGTHS = [1, 127, 128, 129, 300]  # around the size of a block of queries


def reference(q, k, v):
    """In float64; q [T, heads, D], k and v [T, kv_heads, D] -> [T, heads, D]."""
    length = len(q)
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * SCALE
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(future, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize("longest_explicit", [1024, 0], ids=["explicit", "fused"])
def test_each_sequence_of_a_pack_is_attended_to_by_itself(monkeypatch, longest_explicit):
    monkeypatch.setattr(attention, "EXPLICIT_TOKENS", longest_explicit)
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    q, k, v, dout = (
        torch.randn(ends[-1], heads, DIM, generator=generator)
        for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)
    )
    sequences = attention.Sequences(bounds)
    with torch.no_grad():
        out, kept = attention.forward(q, k, v, sequences, SCALE, keep=True)
        gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        attention.backward(kept, dout, gradients)

    for start, end in bounds:
        leaves = [part[start:end].double().requires_grad_() for part in (q, k, v)]
        expected = reference(*leaves)
        torch.testing.assert_close(
            out.view_as(q)[start:end].double(), expected, atol=1e-5, rtol=1e-5
        )
        expected.backward(dout[start:end].double())
        for ours, leaf in zip(gradients, leaves, strict=True):
            torch.testing.assert_close(ours[start:end].double(), leaf.grad, atol=1e-5, rtol=1e-5)
