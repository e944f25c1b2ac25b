"""Same request, same numbers, bit for bit, whatever else is computed beside it (on the CPU)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sft.local.engine import decoding, head, pieces, shared_passes
from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import AdamStep, LoraSpec, SampleWork, Work
from tests.local import engine_models
from tests.local.engine_models import sequences

LENGTHS = [70, 3, 41, 110, 1]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(request, tmp_path_factory):
    """Matrices as wide as a real small model's, so that its kernels are the ones tested."""
    folder = tmp_path_factory.mktemp("wide")
    wide = dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9,
                num_key_value_heads=3, head_dim=64, vocab_size=1031,
                max_position_embeddings=512)  # fmt: skip
    shape = engine_models.SHAPE | wide
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_models, "SHAPE", shape)
        source = engine_models.save("llama-tied", folder)
    return TorchEngine({"wide": source}, dtype=request.param, threads=2)


def train(engine, beside: list[Work], steps: int = 2, rank: int = 8) -> tuple[list, dict]:
    """Train adapter "run" with `beside` in each of its cycles, before and behind it."""
    engine.create_adapter("run", "wide", LoraSpec(rank, seed=0))
    seen = []
    for step in range(steps):
        work = Work("run", sequences(LENGTHS, seed=step), backward=True)
        half = len(beside) // 2
        others = {one.model_id for one in beside if one.backward}
        updates = [AdamStep(name, 0.01) for name in [*sorted(others), "run"]]
        results = engine.run([*beside[:half], work, *beside[half:]], updates).work
        seen.append((results[half].loss_sum, results[half].logprobs))
    return seen, engine.state("run", optimizer=True)


def assert_identical(one, other) -> None:
    (seen, state), (seen_other, state_other) = one, other
    for (loss, logprobs), (loss_other, logprobs_other) in zip(seen, seen_other, strict=True):
        assert loss == loss_other
        for values, values_other in zip(logprobs, logprobs_other, strict=True):
            np.testing.assert_array_equal(values, values_other)
    for part in ("weights", "optimizer"):
        for name, value in getattr(state, part).items():
            np.testing.assert_array_equal(value, getattr(state_other, part)[name])


def test_a_run_alone_is_the_same_twice(engine):
    assert_identical(train(engine, []), train(engine, []))


def test_a_run_is_the_same_beside_its_own_evaluation(engine):
    evaluation = [Work("run", sequences([33, 90], seed=50), backward=False)] * 2
    assert_identical(train(engine, []), train(engine, evaluation))


@pytest.fixture
def joined(monkeypatch) -> list[int]:
    """How many pieces were in each pass."""
    sizes, compute = [], pieces.compute
    monkeypatch.setattr(pieces, "compute", lambda g: sizes.append(len(g)) or compute(g))
    return sizes


def stand_alone(engine) -> bool:
    """Whether rows are joined on this processor: the engine finds that out by itself."""
    return bool(engine._base("wide").rows_together)


def seven_others(engine) -> list[Work]:
    beside = []
    for other in range(7):
        engine.create_adapter(f"other {other}", "wide", LoraSpec([1, 8, 32][other % 3], seed=other))
        data = sequences([5 + 17 * other, 60], seed=100 + other)
        beside.append(Work(f"other {other}", data, backward=True))
    return beside


def test_prompts_and_runs_are_the_same_in_passes_as_long_as_they_become(engine):
    """Some processors have another kernel for 576 rows and more of matrices of this width."""
    engine.add_sampler("s", "wide", None)
    prompts = [list(one.tokens) for one in sequences(list(range(130, 250, 12)), seed=7)]
    asked = [SampleWork("s", prompt, max_tokens=1, prompt_logprobs=True) for prompt in prompts]
    together = [result.prompt_logprobs for result in engine.sample(asked)]
    assert together == [engine.sample([one])[0].prompt_logprobs for one in asked]

    engine.create_adapter("other", "wide", LoraSpec(8, seed=1))
    beside = [Work("other", sequences([170], seed=100 + n), backward=True) for n in range(6)]
    assert_identical(train(engine, []), train(engine, beside))


@pytest.mark.parametrize("rank", [1, 8])
def test_a_run_is_the_same_in_one_pass_with_seven_others(engine, joined, monkeypatch, rank):
    monkeypatch.setitem(head.BLOCK, "cpu", 16)  # the losses of a piece come in several
    alone = train(engine, [], rank=rank)
    assert set(joined) == {1}
    assert_identical(alone, train(engine, seven_others(engine), rank=rank))
    assert (max(joined) > 2) == stand_alone(engine)


def test_a_run_of_many_pieces_is_the_same_beside_seven_others(engine, joined, monkeypatch):
    monkeypatch.setitem(pieces.PIECE_TOKENS, "cpu", 80)
    monkeypatch.setattr(pieces, "LEAST_TOKENS", 64)
    monkeypatch.setitem(shared_passes.PASS_TOKENS, "cpu", 200)
    monkeypatch.setitem(globals(), "LENGTHS", [70, 64, 80, 3, 71, 66, 110])
    alone = train(engine, [])
    assert_identical(alone, train(engine, seven_others(engine)))
    assert max(joined) == (2 if stand_alone(engine) else 1)


@pytest.fixture
def prompts_joined(monkeypatch) -> list[int]:
    """How many prompts were in each pass."""
    sizes, compute = [], decoding.prefill
    monkeypatch.setattr(
        decoding, "prefill", lambda b, r, d: sizes.append(len(r)) or compute(b, r, d)
    )
    return sizes


@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize(
    ("shortest", "joined"),
    [(5, False), (64, True)],
    ids=["short prompts", "prompts that are joined"],
)
def test_samples_and_prompt_logprobs_are_the_same_beside_others(
    engine, prompts_joined, rank, shortest, joined
):
    train(engine, [], rank=rank)
    engine.add_sampler("tuned", "wide", engine.state("run", optimizer=False))
    engine.add_sampler("base", "wide", None)
    tokens = [5, 9, 31, 40, 2, 77, 12] * 17
    prompt = tokens[: shortest + 2]
    work = SampleWork("tuned", prompt, 2, 10, seed=3, stop_at_eos=False, prompt_logprobs=True)
    (alone,) = engine.sample([work])
    others = [
        replace(
            work,
            sampler_id=["base", "tuned", "tuned"][other % 3],
            prompt=tokens[: shortest + 6 * other],
            max_tokens=4 + other,
            seed=other,
        )
        for other in range(9)
    ]
    for place in (0, 4, 9):
        results = engine.sample([*others[:place], work, *others[place:]])
        assert results[place] == alone
    assert (max(prompts_joined) > 2) == (joined and stand_alone(engine))
