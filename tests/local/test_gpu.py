"""The engine on a GPU against the engine on the CPU: where there is one; nothing is faked here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import AdamStep, EngineError, LoraSpec, SampleWork, Work
from sft.local.losses import Cispo, Dro, ImportanceSampling, Ppo
from tests.local.engine_models import save, sequences

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
LENGTHS = [20, 9, 31]


@pytest.fixture(scope="module", params=["llama-tied", "qwen3"])
def folder(request, tmp_path_factory):
    return save(request.param, tmp_path_factory.mktemp(request.param))


def engine_of(folder: str, device: str, dtype: str = "float32") -> TorchEngine:
    return TorchEngine({"tiny": folder}, dtype=dtype, device=device, threads=1)


def losses(engine: TorchEngine, runs: int) -> np.ndarray:
    """[steps, runs]: three steps of runs beside each other, each with sequences of its own."""
    for run in range(runs):
        engine.create_adapter(f"{run}", "tiny", LoraSpec(4, seed=run))
    found = []
    for step in range(3):
        work = [
            Work(f"{run}", sequences(LENGTHS, seed=step * runs + run), backward=True)
            for run in range(runs)
        ]
        results = engine.run(work, [AdamStep(f"{run}", 0.01) for run in range(runs)]).work
        found.append([result.loss_sum for result in results])
    return np.array(found)


@pytest.mark.parametrize("runs", [1, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_runs_train_as_on_the_cpu(folder, runs, dtype, tolerance):
    expected = losses(engine_of(folder, "cpu"), runs)
    found = losses(engine_of(folder, "cuda", dtype), runs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("sampler", ["base", "tuned"])
def test_greedy_samples_and_prompt_logprobs_are_those_of_the_cpu(folder, sampler):
    answers = {}
    for device in ("cpu", "cuda"):
        engine = engine_of(folder, device)
        losses(engine, 1)
        engine.add_sampler("base", "tiny", None)
        engine.add_sampler("tuned", "tiny", engine.state("0", optimizer=False))
        asked = SampleWork(
            sampler, [5, 9, 31, 40, 2, 77, 12], num_samples=2, max_tokens=12, temperature=0.0,
            stop_at_eos=False, prompt_logprobs=True,
        )  # fmt: skip
        (answers[device],) = engine.sample([asked])
        assert not isinstance(answers[device], EngineError)
    cpu, gpu = answers["cpu"], answers["cuda"]
    assert [one.tokens for one in gpu.sequences] == [one.tokens for one in cpu.sequences]
    np.testing.assert_allclose(gpu.sequences[0].logprobs, cpu.sequences[0].logprobs, atol=1e-4)
    np.testing.assert_allclose(gpu.prompt_logprobs[1:], cpu.prompt_logprobs[1:], atol=1e-4)


@pytest.mark.parametrize("loss", [ImportanceSampling(), Ppo(), Cispo(), Dro(0.1)], ids=repr)
def test_losses_of_a_policy_are_those_of_the_cpu(folder, loss):
    found = {}
    for device in ("cpu", "cuda"):
        engine = engine_of(folder, device)
        engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
        data = [
            replace(one, sampled=np.full(len(one.weights), -4, np.float32))
            for one in sequences(LENGTHS)
        ]
        work = [Work("a", data, True, loss)]
        found[device] = [engine.run(work, [AdamStep("a", 0.01)]).work[0].loss_sum for _ in range(3)]
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-3)
