"""Attention of a pack in one kernel: torch's function for it and its autograd, as on a GPU.

The kernels themselves are for GPUs. Here they are written out for the CPU, below torch's own
function, so that what is handed to it and what comes back is checked; not their numbers on a GPU.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import varlen as torch_varlen

from sft.local.engine import attention, varlen
from sft.local.engine.attention import Sequences
from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import AdamStep, LoraSpec, Work
from tests.local.engine_models import save, sequences


class Kernels:
    """The kernels for the CPU, and what tests have them do otherwise."""

    calls = 0
    refusal: str | None = None
    factor = 1.0


@torch_varlen._varlen_attn.register_kernel("cpu")
def forward_kernel(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal, scale, window_size, *options
):
    if Kernels.refusal:
        raise RuntimeError(Kernels.refusal)
    check(query, key, cu_seq_q, cu_seq_k, max_q, max_k, is_causal, window_size)
    Kernels.calls += 1
    out, _ = attention.forward(query, key, value, by_itself(cu_seq_q), scale, keep=False)
    logsumexp = torch.zeros(query.shape[1], len(query))
    return Kernels.factor * out.view_as(query), logsumexp, torch.zeros(2, dtype=torch.uint64)


@torch_varlen._varlen_attn_backward.register_kernel("cpu")
def backward_kernel(
    grad_out, query, key, value, out, lse, cu_seq_q, cu_seq_k, max_q, max_k, is_causal, rng_state,
    scale=None, window_size=None,
):  # fmt: skip
    check(query, key, cu_seq_q, cu_seq_k, max_q, max_k, is_causal, window_size)
    Kernels.calls += 1
    _, kept = attention.forward(query, key, value, by_itself(cu_seq_q), scale, keep=True)
    gradients = tuple(torch.empty_like(part) for part in (query, key, value))
    attention.backward(kept, grad_out, gradients)
    return gradients


def check(query, key, cu_seq_q, cu_seq_k, max_q, max_k, is_causal, window_size) -> None:
    """What FlashAttention-2 wants of its arguments."""
    assert is_causal and list(window_size) == [-1, 0]
    assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
    assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query) == len(key)
    assert max_q == max_k == cu_seq_q.diff().max()
    assert query.stride(-1) == key.stride(-1) == 1 and query.dtype != torch.float32


def by_itself(starts) -> Sequences:
    return Sequences(list(pairwise(starts.tolist())))


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setattr(varlen, "DEVICES", ("cpu",))
    monkeypatch.setattr(Kernels, "calls", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("qwen3", tmp_path_factory.mktemp("qwen3"))


def losses(folder: str, dtype: str = "bfloat16") -> list[float]:
    """Of three steps of one run, whose three sequences make one pack."""
    engine = TorchEngine({"tiny": folder}, dtype=dtype, threads=1)
    engine.create_adapter("run", "tiny", LoraSpec(4, seed=0))
    found = []
    for step in range(3):
        work = [Work("run", sequences([20, 9, 31], seed=step), backward=True)]
        found.append(engine.run(work, [AdamStep("run", 0.01)]).work[0].loss_sum)
    return found


@pytest.fixture(scope="module")
def expected(folder):
    """Sequence by sequence."""
    return losses(folder)


def test_a_pack_goes_through_one_kernel_a_layer_and_direction(folder, expected):
    base = TorchEngine({"tiny": folder}, dtype="bfloat16", threads=1)._base("tiny")
    trial = 2
    assert losses(folder) == expected
    assert Kernels.calls == trial + 3 * 2 * len(base.layers)


def test_a_kernel_that_refuses_is_warned_of_and_left_alone(folder, expected, caplog, monkeypatch):
    monkeypatch.setattr(Kernels, "refusal", "FlashAttention only supports Ampere GPUs or newer.")
    assert losses(folder) == expected
    assert [record.getMessage() for record in caplog.records] == [
        "Attention goes sequence by sequence, which is slower: "
        "FlashAttention only supports Ampere GPUs or newer."
    ]


def test_a_kernel_whose_numbers_are_others_is_warned_of_and_left_alone(
    folder, expected, caplog, monkeypatch
):
    monkeypatch.setattr(Kernels, "factor", 1.1)
    assert losses(folder) == expected
    assert Kernels.calls == 2
    assert "gives other numbers" in caplog.text


def test_float32_and_a_single_sequence_go_by_themselves(folder):
    losses(folder, "float32")
    engine = TorchEngine({"tiny": folder}, dtype="bfloat16", threads=1)
    engine.create_adapter("run", "tiny", LoraSpec(4, seed=0))
    engine.run([Work("run", sequences([20]), backward=True)])
    assert Kernels.calls == 0
