"""What the engine refuses, and that a refusal hurts nothing else; states and base models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import AdamStep, EngineError, LoraSpec, TrainingSequence, Work
from tests.local.engine_models import VOCAB, save, sequences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def engine(folder):
    return TorchEngine({"tiny": folder}, dtype="float32", threads=2)


@pytest.fixture
def adapter(engine):
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    return "a"


def datum(tokens=(1, 2, 3), targets=(2, 3, 4), weights=(1.0, 1.0, 1.0)) -> TrainingSequence:
    return TrainingSequence(
        np.array(tokens, np.int64), np.array(targets, np.int64), np.array(weights, np.float32)
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "holds no data"),
        ([datum(), datum([1, VOCAB, 3])], f"datum 1 holds the token id {VOCAB}"),
        ([datum(targets=(2, -100, 4))], "target_tokens of datum 0 holds the token id -100"),
        ([datum(targets=(2, 3))], "datum 0 has 3 tokens, 2 targets"),
        ([datum([], [], [])], "datum 0 is empty"),
        ([datum([1] * 129, [1] * 129, [1] * 129)], "context of 128"),
        ([datum(weights=(1, np.nan, 1))], "not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_that_cannot_be_computed_is_refused_with_its_place(engine, adapter, data, words):
    (error,) = engine.run([Work(adapter, data, backward=True)]).work
    assert isinstance(error, EngineError) and error.user
    assert words in error.message
    assert engine._adapters[adapter].gradient is None


def test_a_failed_request_leaves_its_neighbours_and_its_adapter_alone(engine, adapter):
    good = sequences([20, 9])
    engine.run([Work(adapter, good, backward=True)])
    before = engine._adapters[adapter].gradient.clone()
    engine.create_adapter("b", "tiny", LoraSpec(4, seed=0))
    bad = Work(adapter, [*good, datum([VOCAB] * 3)], backward=True)
    work = [bad, Work("gone", good, True), Work("b", good, True)]
    error, unknown, result = engine.run(work).work
    assert isinstance(error, EngineError) and isinstance(unknown, EngineError)
    assert torch.equal(engine._adapters[adapter].gradient, before)
    assert torch.equal(engine._adapters["b"].gradient, before)
    assert result.loss_sum != 0


def test_a_failure_of_the_machine_is_not_called_the_users(engine, adapter, monkeypatch):
    from sft.local.engine import network

    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(network, "loss_backward", fail)
    (error,) = engine.run([Work(adapter, sequences([20]), backward=True)]).work
    assert not error.user and "memory" in error.message


def test_a_step_without_a_gradient_or_with_impossible_values_is_refused(engine, adapter):
    (error,) = engine.run([], [AdamStep(adapter, 0.1)]).steps
    assert "no gradient" in error.message
    engine.run([Work(adapter, sequences([20]), backward=True)])
    (error,) = engine.run([], [AdamStep(adapter, 0.1, beta2=1.0)]).steps
    assert "beta2" in error.message
    (metrics,) = engine.run([], [AdamStep(adapter, 0.1)]).steps
    assert metrics["grad_norm"] > 0


def test_a_failed_backward_stops_the_step_behind_it_and_a_failed_forward_does_not(engine, adapter):
    good, bad = sequences([20]), [datum([VOCAB] * 3)]
    step = AdamStep(adapter, 0.1)
    work = [Work(adapter, good, backward=True), Work(adapter, bad, backward=False)]
    (metrics,) = engine.run(work, [step]).steps
    assert metrics["grad_norm"] > 0
    work = [Work(adapter, good, backward=True), Work(adapter, bad, backward=True)]
    (error,) = engine.run(work, [step]).steps
    assert isinstance(error, EngineError) and engine._adapters[adapter].step == 1


def test_an_unknown_base_model_or_an_impossible_adapter_is_refused(engine):
    with pytest.raises(EngineError, match="'other' is not served here: choose one of tiny"):
        engine.create_adapter("x", "other", LoraSpec(4))
    with pytest.raises(EngineError, match="rank is 0"):
        engine.create_adapter("x", "tiny", LoraSpec(0))
    with pytest.raises(EngineError, match="trains nothing"):
        engine.create_adapter("x", "tiny", LoraSpec(4, None, False, False, False))


def test_a_model_that_is_not_there_or_of_another_kind_is_refused(folder, tmp_path):
    with pytest.raises(EngineError, match="No model could be read"):
        TorchEngine({"tiny": str(tmp_path)})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(EngineError, match="of type 'gpt2'"):
        TorchEngine({"tiny": str(tmp_path)})
    with pytest.raises(EngineError, match="dtype is 'float8'"):
        TorchEngine({"tiny": folder}, dtype="float8")


def test_seeds_name_the_initial_weights_whatever_the_order_of_creation(engine):
    for name, seed in (("x", 1), ("y", 2), ("z", 1), ("free", None), ("free too", None)):
        engine.create_adapter(name, "tiny", LoraSpec(4, seed=seed))
    states = {name: engine.state(name, optimizer=False).weights for name in engine._adapters}
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    assert (states["x"][name] == states["z"][name]).all()
    assert (states["x"][name] != states["y"][name]).any()
    assert (states["free"][name] != states["free too"][name]).any()
    bound = 80**-0.5  # 1 / sqrt(inputs), as PEFT
    assert 0.9 * bound < np.abs(states["x"][name]).max() <= bound
    assert not states["x"][name.replace("lora_A", "lora_B")].any()


def test_a_loaded_state_goes_on_as_if_nothing_had_happened(engine, adapter):
    def advance(model_id: str, step: int) -> None:
        work = Work(model_id, sequences([20, 9], seed=step), backward=True)
        engine.run([work], [AdamStep(model_id, 0.01)])

    advance(adapter, 0)
    saved = engine.state(adapter, optimizer=True)
    kept = {name: value.copy() for name, value in saved.weights.items()}
    advance(adapter, 1)
    engine.create_adapter("resumed", "tiny", LoraSpec(4, seed=9))
    engine.load("resumed", saved, optimizer=True)
    advance("resumed", 1)
    expected, found = (engine.state(name, optimizer=True) for name in (adapter, "resumed"))
    for name, value in expected.weights.items():
        np.testing.assert_array_equal(saved.weights[name], kept[name])  # a copy, not a view
        np.testing.assert_array_equal(found.weights[name], value)
    for name, value in expected.optimizer.items():
        np.testing.assert_array_equal(found.optimizer[name], value)


def test_a_state_loaded_without_its_optimizer_starts_it_afresh(engine, adapter):
    engine.run([Work(adapter, sequences([20]), backward=True)], [AdamStep(adapter, 0.01)])
    engine.run([Work(adapter, sequences([20]), backward=True)])
    engine.load(adapter, engine.state(adapter, optimizer=False), optimizer=False)
    assert engine.state(adapter, optimizer=True).optimizer["step"] == 0
    assert engine._adapters[adapter].gradient is None


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(engine, adapter):
    before = engine.state(adapter, optimizer=False)
    for lora in (LoraSpec(8, seed=1), LoraSpec(4, 1, train_unembed=False)):
        engine.create_adapter("other", "tiny", lora)
        with pytest.raises(EngineError, match="does not fit"):
            engine.load(adapter, engine.state("other", optimizer=False), optimizer=False)
    with pytest.raises(EngineError, match="no optimizer state"):
        engine.load(adapter, before, optimizer=True)
    after = engine.state(adapter, optimizer=False)
    assert all((after.weights[name] == value).all() for name, value in before.weights.items())
