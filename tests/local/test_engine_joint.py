"""Passes that join several runs, as on a GPU: the same numbers, to rounding, as run by run."""

from __future__ import annotations

import numpy as np
import pytest

from sft.local import passes, stacked
from sft.local.engine import TorchEngine
from sft.local.engine_api import AdamStep, LoraSpec, Work
from tests.local.engine_models import save, sequences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("qwen3", tmp_path_factory.mktemp("qwen3"))


def train(folder: str, specs: list[LoraSpec], lengths: list[list[int]], dtype: str) -> list:
    engine = TorchEngine({"tiny": folder}, dtype=dtype, threads=1)
    for run, spec in enumerate(specs):
        engine.create_adapter(f"{run}", "tiny", spec)
    losses = []
    for step in range(3):
        work = [
            Work(f"{run}", sequences(lengths[run], seed=10 * step + run), backward=True)
            for run in range(len(specs))
        ]
        losses += [result.loss_sum for result in engine.run(work)]
        engine.optim_step([AdamStep(one.model_id, 0.01, eps=1e-4) for one in work])
    return losses


ALIKE = [LoraSpec(4, seed=seed) for seed in range(4)]
DIFFERENT = [
    LoraSpec(1, 0),
    LoraSpec(16, 1),
    LoraSpec(4, 2, train_mlp=False),
    LoraSpec(4, 3, train_attn=False, train_unembed=False),
]


@pytest.mark.parametrize(
    ("specs", "lengths", "batched"),
    [
        (ALIKE, [[20, 9]] * 4, True),
        (ALIKE, [[20], [9], [31], [3, 8]], False),
        (DIFFERENT, [[20, 9]] * 4, False),
    ],
    ids=["alike", "of different lengths", "of different ranks and modules"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.3)])
def test_joined_runs_train_as_they_do_alone(
    folder, monkeypatch, specs, lengths, batched, dtype, tolerance
):
    alone = train(folder, specs, lengths, dtype)
    sizes, calls = [], []
    compute, forward = passes.compute, stacked.forward
    monkeypatch.setattr(passes, "compute", lambda g: sizes.append(len(g)) or compute(g))
    monkeypatch.setattr(stacked, "forward", lambda *a: calls.append(1) or forward(*a))
    monkeypatch.setitem(passes.PASS_TOKENS, "cpu", 10_000)
    joined = train(folder, specs, lengths, dtype)
    assert sizes == [4, 4, 4]  # one pass a cycle
    assert bool(calls) == batched
    np.testing.assert_allclose(joined, alone, atol=tolerance, rtol=1e-3)


def test_a_pass_holds_no_more_than_its_budget_and_one_direction(folder, monkeypatch):
    monkeypatch.setitem(passes.PASS_TOKENS, "cpu", 60)
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    adapter = engine._adapters["a"]
    queue = []
    for index, backward in enumerate([True, True, True, False, False]):
        work = Work("a", sequences([25], seed=index), backward)
        queue += passes.pieces(index, adapter, work, engine._workers)
    assert [[p.request for p in group] for group in passes.join(queue)] == [[0, 1], [2], [3, 4]]
