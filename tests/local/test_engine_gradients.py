"""The engine's mathematics against PEFT, autograd and torch's own AdamW, in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import AdamStep, AdapterState, LoraSpec, Work
from sft.local.peft_config import adapter_config
from tests.local.engine_models import KINDS, assert_same_logprobs, roundings, save, sequences

# PEFT walks over every attribute of the model, a deprecated one of transformers among them; and it
# warns that a LoRA on a tied unembedding cannot be merged, which nobody does here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning"),
]
LENGTHS = [3, 40, 17, 1, 29]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine(folder):
    return TorchEngine({"tiny": folder}, dtype="float32", threads=2)


def write_adapter(state: AdapterState, folder) -> str:
    import json

    save_file(state.weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(state)))
    return str(folder)


def peft_model(folder: str, state: AdapterState, adapter_folder, trainable: bool = False):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(
        base, write_adapter(state, adapter_folder), is_trainable=trainable
    )


def reference_logprobs(model, sequence) -> torch.Tensor:
    logits = model(torch.from_numpy(sequence.tokens)[None]).logits[0]
    targets = torch.from_numpy(sequence.targets)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def with_random_b(state: AdapterState, seed: int = 3) -> AdapterState:
    random = np.random.default_rng(seed)
    weights = {
        name: value if "lora_A" in name else random.normal(size=value.shape, scale=0.1)
        for name, value in state.weights.items()
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    return AdapterState(state.base_model, state.lora, weights)


def gradients(engine: TorchEngine, model_id: str) -> dict[str, np.ndarray]:
    """What has added up so far, by name. The engine never gives gradients away: look inside."""
    adapter = engine._adapters[model_id]
    return adapter._unpack(adapter.gradient)


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_gradients_are_those_of_peft_and_autograd(engine, folder, tmp_path, rank):
    engine.create_adapter("a", "tiny", LoraSpec(rank, seed=rank))
    engine.load("a", with_random_b(engine.state("a", optimizer=False)), optimizer=False)
    data = sequences(LENGTHS)
    (result,) = engine.run([Work("a", data, backward=True)]).work

    model = peft_model(folder, engine.state("a", optimizer=False), tmp_path, trainable=True)
    reference = [reference_logprobs(model, sequence) for sequence in data]
    weights = torch.from_numpy(np.concatenate([sequence.weights for sequence in data]))
    loss = -(weights * torch.cat(reference)).sum()
    expected = (torch.cat(reference) * (weights != 0)).detach().numpy()
    assert_same_logprobs(np.concatenate(result.logprobs), expected)
    bound = roundings(np.abs(expected).max()) * float(weights.abs().sum())
    assert result.loss_sum == pytest.approx(loss.item(), rel=0, abs=bound)
    loss.backward()
    ours = gradients(engine, "a")
    theirs = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        difference = np.abs(ours[name] - expected).max() / np.abs(expected).max()
        assert difference < 1e-4, name


@pytest.mark.parametrize(
    "flags", [(True, False, False), (False, True, False), (False, False, True)], ids=str
)
def test_only_the_modules_that_the_flags_name_are_trained(engine, folder, tmp_path, flags):
    engine.create_adapter("a", "tiny", LoraSpec(4, 0, *flags))
    engine.load("a", with_random_b(engine.state("a", optimizer=False)), optimizer=False)
    state = engine.state("a", optimizer=False)
    found = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in state.weights}
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    expected = (attention, mlp, {"lm_head"})
    assert found == set().union(*(e for e, on in zip(expected, flags, strict=True) if on))
    data = sequences([20])
    (result,) = engine.run([Work("a", data, backward=False)]).work
    with torch.no_grad():
        logprobs = reference_logprobs(peft_model(folder, state, tmp_path), data[0])
    assert_same_logprobs(result.logprobs[0], logprobs.numpy())


def test_a_forward_gives_every_logprob_and_no_gradient(engine):
    engine.create_adapter("a", "tiny", LoraSpec(4, 0))
    (result,) = engine.run([Work("a", sequences(LENGTHS), backward=False)]).work
    assert all((logprobs < 0).all() for logprobs in result.logprobs)
    assert engine._adapters["a"].gradient is None


def test_gradients_add_up_until_the_optimizer_steps(engine):
    first, second = sequences([12, 30], seed=1), sequences([25], seed=2)
    for name in ("apart", "together"):
        engine.create_adapter(name, "tiny", LoraSpec(4, seed=5))
        state = with_random_b(engine.state(name, optimizer=False))
        engine.load(name, state, optimizer=False)
    engine.run([Work("apart", first, backward=True)])
    engine.run([Work("apart", second, backward=True)])
    engine.run([Work("together", first + second, backward=True)])
    apart, together = gradients(engine, "apart"), gradients(engine, "together")
    for name in apart:
        np.testing.assert_allclose(apart[name], together[name], rtol=1e-4, atol=1e-5)


def test_recomputed_activations_give_the_same_gradients(engine, monkeypatch):
    from sft.local.engine import network

    results = []
    for keep in (1 << 40, 0):
        monkeypatch.setitem(network.KEEP_BYTES, "cpu", keep)
        engine.create_adapter("a", "tiny", LoraSpec(4, seed=5))
        engine.run([Work("a", sequences([30, 20]), backward=True)])
        results.append(engine._adapters["a"].gradient)
    assert torch.equal(*results)


@pytest.mark.parametrize("clip", [0.0, 0.5], ids=["unclipped", "clipped"])
def test_steps_are_those_of_torch_adamw(engine, clip):
    settings = dict(learning_rate=0.01, beta1=0.8, beta2=0.9, eps=1e-8, weight_decay=0.1)
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    state = engine.state("a", optimizer=False)
    parameters = {n: torch.nn.Parameter(torch.from_numpy(w)) for n, w in state.weights.items()}
    reference = torch.optim.AdamW(
        parameters.values(), lr=0.01, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.1
    )
    for step in range(3):
        engine.run([Work("a", sequences([30, 20], seed=step), backward=True)])
        for name, gradient in gradients(engine, "a").items():
            parameters[name].grad = torch.from_numpy(gradient)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters.values()])
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        (metrics,) = engine.run([], [AdamStep("a", **settings, grad_clip_norm=clip)]).steps
        reference.step()
        assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    for name, ours in engine.state("a", optimizer=False).weights.items():
        np.testing.assert_allclose(ours, parameters[name].detach().numpy(), atol=1e-6)


def test_a_step_touches_only_the_adapter_that_stepped(engine):
    for name in ("a", "b"):
        engine.create_adapter(name, "tiny", LoraSpec(4, seed=0))
    engine.run([Work(name, sequences([30]), backward=True) for name in ("a", "b")])
    before, pending = engine.state("b", optimizer=True), gradients(engine, "b")
    engine.run([], [AdamStep("a", 0.1)])
    after = engine.state("b", optimizer=True)
    for name, value in before.weights.items():
        np.testing.assert_array_equal(value, after.weights[name])
        np.testing.assert_array_equal(pending[name], gradients(engine, "b")[name])
    assert after.optimizer["step"] == 0
