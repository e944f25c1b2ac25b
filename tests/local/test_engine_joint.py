"""Passes that join several runs, as on a GPU: the same numbers, to rounding, as run by run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sft.local.engine import decoding, layer, optimizer, pieces, shared_passes, stacked
from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import AdamStep, EngineError, LoraSpec, SampleWork, Work
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
        steps = [AdamStep(one.model_id, 0.01, eps=1e-4) for one in work]
        losses += [result.loss_sum for result in engine.run(work, steps).work]
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
    as_on_a_gpu(monkeypatch)
    sizes, calls = [], []
    compute, forward = pieces.compute, stacked.forward
    monkeypatch.setattr(pieces, "compute", lambda g: sizes.append(len(g)) or compute(g))
    monkeypatch.setattr(stacked, "forward", lambda *a: calls.append(1) or forward(*a))
    joined = train(folder, specs, lengths, dtype)
    assert sizes == [4, 4, 4]  # one pass a cycle
    assert bool(calls) == batched
    np.testing.assert_allclose(joined, alone, atol=tolerance, rtol=1e-3)


def as_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(shared_passes, "may_be_joined", lambda base, tokens, workers: True)
    monkeypatch.setattr(stacked, "DEVICES", ("cpu",))


def cut_small(monkeypatch) -> None:
    """Pieces of at most 25 tokens."""
    monkeypatch.setattr(pieces, "LEAST_TOKENS", 1)
    monkeypatch.setitem(pieces.PIECE_TOKENS, "cpu", 25)


def queue_of(engine: TorchEngine, requests: list[tuple[list[int], bool]]) -> list[pieces.Piece]:
    """The pieces of requests of these lengths, each with a backward or without."""
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    queue = []
    for index, (lengths, backward) in enumerate(requests):
        work = Work("a", sequences(lengths, seed=index), backward)
        queue += pieces.cut(index, engine._adapters["a"], work, engine._workers)
    return queue


def test_a_pass_holds_no_more_than_its_budget_and_one_direction(folder, monkeypatch):
    as_on_a_gpu(monkeypatch)
    monkeypatch.setitem(shared_passes.PASS_TOKENS, "cpu", 60)
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    queue = queue_of(engine, [([25], backward) for backward in (True, True, True, False, False)])
    joined = shared_passes.join(queue, engine._workers)
    assert sorted([p.request for p in one] for one in joined) == [[0, 2], [1], [3, 4]]


def test_passes_are_as_many_as_the_workers_and_of_one_size(folder, monkeypatch):
    as_on_a_gpu(monkeypatch)
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    queue = queue_of(engine, [([length], True) for length in (100, 40, 90, 70, 60, 80, 30, 110)])
    joined = shared_passes.join(queue, engine._workers)
    assert [sum(piece.tokens for piece in one) for one in joined] == [290, 290]


def test_a_requests_pieces_stay_together_where_that_is_about_as_even(folder, monkeypatch):
    as_on_a_gpu(monkeypatch)
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    queue = queue_of(engine, [([70, 70], True)] * 4)
    joined = shared_passes.join(queue, engine._workers)
    assert [len({piece.request for piece in one}) for one in joined] == [2, 2]


def test_the_first_pieces_of_a_request_have_one_gradient_in_a_pass(folder, monkeypatch):
    cut_small(monkeypatch)
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    queue = queue_of(engine, [([20, 20, 20], True), ([20, 20, 20, 20], True)])
    results = pieces.compute([*queue[:2], *queue[4:]])  # 0 and 1 of the first, 1 to 3 of the second
    assert [result.gradient is not None for result in results] == [True, False, True, True, True]
    alone = [pieces.compute([piece])[0].gradient for piece in queue[:2]]
    torch.testing.assert_close(results[0].gradient, alone[0] + alone[1])


def test_runs_of_several_pieces_train_as_they_do_alone(folder, monkeypatch):
    cut_small(monkeypatch)
    lengths = [[20, 20]] * 4
    alone = train(folder, ALIKE, lengths, "float32")
    as_on_a_gpu(monkeypatch)
    joined = train(folder, ALIKE, lengths, "float32")
    np.testing.assert_allclose(joined, alone, atol=1e-4, rtol=1e-3)


def test_rows_of_narrow_matrices_are_not_joined_on_a_cpu(folder):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    assert not shared_passes.rows_together(engine._base("tiny"))
    queue = queue_of(engine, [([100], True)] * 3)
    assert [len(one) for one in shared_passes.join(queue, engine._workers)] == [1, 1, 1]


def test_rows_are_not_joined_where_one_depends_on_those_beside_it(folder, monkeypatch):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    monkeypatch.setattr(shared_passes, "WIDTH", 1)
    base, forward = engine._base("tiny"), layer.forward_kept

    def dependent(context, index, x):
        y, kept = forward(context, index, x)
        return y + 1e-6 * len(x), kept

    monkeypatch.setattr(layer, "forward_kept", dependent)
    assert not shared_passes.rows_together(base)


def test_passes_are_no_longer_than_rows_agree_in(folder, monkeypatch):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    monkeypatch.setattr(shared_passes, "WIDTH", 1)
    monkeypatch.setattr(shared_passes, "LEAST_ROWS", 8)
    base, forward = engine._base("tiny"), layer.forward_kept

    def another_kernel(context, index, x):
        y, kept = forward(context, index, x)
        return y + 1e-3 * (len(x) >= 400), kept

    monkeypatch.setattr(layer, "forward_kept", another_kernel)
    assert shared_passes.rows_together(base) < 400
    queue = queue_of(engine, [([100], True)] * 9)
    tokens = [
        sum(piece.tokens for piece in one) for one in shared_passes.join(queue, engine._workers)
    ]
    assert len(tokens) < 9 and max(tokens) < 400


def test_a_request_that_fails_in_a_joined_pass_fails_alone(folder, monkeypatch):
    as_on_a_gpu(monkeypatch)
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    for name in ("a", "b", "c"):
        engine.create_adapter(name, "tiny", LoraSpec(4, seed=0))
    compute = pieces.compute

    def fail_for_b(group):
        if any(piece.adapter is engine._adapters["b"] for piece in group):
            raise RuntimeError("out of memory")
        return compute(group)

    monkeypatch.setattr(pieces, "compute", fail_for_b)
    work = [Work(name, sequences([20]), True) for name in ("a", "b", "c")]
    answers = engine.run(work, [AdamStep(name, 0.1) for name in ("a", "b", "c")])
    assert [isinstance(result, EngineError) for result in answers.work] == [False, True, False]
    assert [isinstance(result, EngineError) for result in answers.steps] == [False, True, False]
    assert engine._adapters["b"].step == 0


def prompts_of(engine: TorchEngine) -> list[SampleWork]:
    """Through the base model and adapters of two ranks; the shortest has one token."""
    engine.add_sampler("base", "tiny", None)
    for name, rank in (("a", 4), ("b", 1)):
        engine.create_adapter(name, "tiny", LoraSpec(rank, seed=rank))
        engine.run([Work(name, sequences([30]), True)], [AdamStep(name, 0.05)])
        engine.add_sampler(name, "tiny", engine.state(name, optimizer=False))
    return [
        SampleWork(name, list(range(3, 3 + length)), max_tokens=3, temperature=0,
                   prompt_logprobs=True)
        for name, length in (("a", 20), ("base", 9), ("b", 1), ("a", 31), ("a", 5))
    ]  # fmt: skip


def test_joined_prompts_give_what_each_gives_alone(folder, monkeypatch):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    work = prompts_of(engine)
    alone = [engine.sample([one])[0] for one in work]
    as_on_a_gpu(monkeypatch)
    sizes, prefill = [], decoding.prefill
    monkeypatch.setattr(
        decoding, "prefill", lambda base, some, d: sizes.append(len(some)) or prefill(base, some, d)
    )
    for one, expected in zip(engine.sample(work), alone, strict=True):
        assert one.sequences[0].tokens == expected.sequences[0].tokens
        np.testing.assert_allclose(
            np.array(one.prompt_logprobs[1:]), np.array(expected.prompt_logprobs[1:]), atol=1e-4
        )
    assert sizes == [5]


def test_a_prompt_that_fails_in_a_joined_pass_fails_alone(folder, monkeypatch):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    work = prompts_of(engine)
    as_on_a_gpu(monkeypatch)
    prefill = decoding.prefill

    def fail_for_nine_tokens(base, requests, decode):
        if any(len(one.prompt) == 9 for _, one in requests):
            raise RuntimeError("out of memory")
        return prefill(base, requests, decode)

    monkeypatch.setattr(decoding, "prefill", fail_for_nine_tokens)
    failed = [isinstance(result, EngineError) for result in engine.sample(work)]
    assert failed == [False, True, False, False, False]


def test_an_adapter_steps_while_others_are_still_to_be_computed(folder, monkeypatch):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    names = [f"{run}" for run in range(6)]
    for name in names:
        engine.create_adapter(name, "tiny", LoraSpec(4, seed=0))
    done, compute, adamw = [], pieces.compute, optimizer.adamw
    monkeypatch.setattr(pieces, "compute", lambda g: done.append("pass") or compute(g))
    monkeypatch.setattr(optimizer, "adamw", lambda a, s: done.append("step") or adamw(a, s))
    work = [Work(name, sequences([20]), True) for name in names]
    engine.run(work, [AdamStep(name, 0.1) for name in names])
    assert done.count("step") == done.count("pass") == 6
    assert done.index("step") < 5  # before the last pass, so that its gradient was gone by then


def test_a_step_is_computed_with_the_threads_of_a_worker(folder, monkeypatch):
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    threads, adamw = [], optimizer.adamw
    monkeypatch.setattr(
        optimizer, "adamw", lambda *a: threads.append(torch.get_num_threads()) or adamw(*a)
    )
    engine.run([Work("a", sequences([20]), True)], [AdamStep("a", 0.1)])
    assert threads == [1]
