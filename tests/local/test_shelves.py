"""Samples of several lengths in one step: their caches lie on shelves, which they outgrow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sft.local.engine.engine import TorchEngine
from sft.local.engine.products import Plain, Reordered, reorders
from sft.local.engine.shelves import LEAST, ROWS, capacity
from sft.local.engine.workers import Workers
from sft.local.engine_api import LoraSpec, SampleWork, TrainingSequence, Work
from tests.local.engine_models import VOCAB, assert_same_logprobs, save


@pytest.fixture(scope="module", params=["llama-tied", "qwen3"])
def engine(request, tmp_path_factory):
    folder = save(request.param, tmp_path_factory.mktemp("model"))
    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    engine.add_sampler("base", "tiny", None)
    engine.create_adapter("run", "tiny", LoraSpec(4, seed=0))  # B is zero: the base model itself
    return engine


@pytest.fixture(scope="module")
def requests():
    """More than a shelf first has room for; they begin around its end, and end one by one."""
    random = np.random.default_rng(0)
    return [
        SampleWork(
            "base", random.integers(3, VOCAB, LEAST - 2 * place + 4).tolist(), 2,
            5 + 3 * place, seed=place, stop_at_eos=False,
        )
        for place in range(ROWS + 2)
    ]  # fmt: skip


def test_a_sample_beside_others_that_outgrow_their_shelves_is_that_alone(engine, requests):
    together = engine.sample(requests)
    assert together == [engine.sample([request])[0] for request in requests]


def test_logprobs_of_samples_that_outgrew_a_shelf_are_those_of_a_forward(engine, requests):
    for request, result in zip(requests, engine.sample(requests), strict=True):
        for sampled in result.sequences:
            tokens = request.prompt + sampled.tokens
            data = TrainingSequence(
                np.array(tokens[:-1]), np.array(tokens[1:]), np.zeros(len(tokens) - 1, np.float32)
            )
            (forward,) = engine.run([Work("run", [data], backward=False)]).work
            assert_same_logprobs(sampled.logprobs, forward.logprobs[0][len(request.prompt) - 1 :])


@pytest.mark.parametrize(
    ("length", "room"), [(1, 64), (64, 64), (65, 128), (1000, 1024), (1030, 1152), (8000, 8192)]
)
def test_a_shelf_has_room_for_an_eighth_more_or_64_positions(length, room):
    assert capacity(length) == room


def test_a_step_has_all_cores_and_leaves_each_worker_its_own_number():
    workers = Workers(torch.device("cpu"), threads=2)

    def threads(_: None) -> int:
        return torch.get_num_threads()

    assert list(workers.map(threads, [None])) == [1]
    assert workers.together(threads, None) == 2
    assert list(workers.map(threads, [None, None])) == [1, 1]
    assert workers.beside(threads, None) == 1


@pytest.mark.skipif(not reorders(torch.float32), reason="oneDNN of this build takes no weights")
@pytest.mark.parametrize("biased", [True, False])
def test_reordered_weights_of_several_modules_give_what_plain_ones_do(biased):
    torch.manual_seed(0)
    weights = tuple(torch.randn(outputs, 24) for outputs in (40, 8, 8))
    plain = Plain(weights, tuple(torch.randn(len(w)) if biased else None for w in weights))
    reordered, x = Reordered.of(plain), torch.randn(5, 24)
    ys = plain.forward(x)
    for one, other in zip(reordered.forward(x), ys, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(reordered.backward(ys), plain.backward(ys), rtol=1e-5, atol=1e-3)
