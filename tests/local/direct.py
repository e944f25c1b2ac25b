"""A core around an engine of constants, asked directly: tests of what lies behind HTTP."""

import asyncio
import json

import numpy as np
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from sft.local.engine_api import TrainingSequence
from sft.local.losses import CrossEntropy
from sft.local.server.core import Core
from sft.local.server.store import Store
from tests.local.stub import MODEL, StubEngine


class Client:
    """Says to a core what the SDK would, with seq_ids of the test's choice."""

    def __init__(self, core: Core):
        self.core = core
        self.session = core.sessions.open(None, None).session_id
        self.samplers = 0

    async def create(self, number: int = 0, **values) -> str:
        lora = types.LoraConfig(rank=4)
        request = types.CreateModelRequest(
            session_id=self.session, model_seq_id=number, base_model=MODEL, lora_config=lora,
            **values,
        )  # fmt: skip
        await self.result(self.core.create_model(request))
        return f"{self.session}:train:{number}"

    def compute(self, model: str, seq_id: int, *, backward: bool = True, token: int = 1):
        message = pb.ForwardBackwardRequest(
            model_id=model, seq_id=seq_id, forward_only=not backward
        )
        tokens = np.array([1, token])
        sequence = TrainingSequence(tokens, tokens, np.ones(2, np.float32))
        return self.core.compute(message, CrossEntropy(), [sequence])

    def step(self, model: str, seq_id: int, **params):
        request = types.OptimStepRequest(
            model_id=model, seq_id=seq_id, optim_params=types.AdamParams(**params)
        )
        return self.core.optim_step(request)

    def save(self, model: str, seq_id: int, name: str, **values):
        request = types.SaveWeightsRequest(model_id=model, seq_id=seq_id, path=name, **values)
        return self.core.save_weights(request)

    def snapshot(self, model: str, seq_id: int):
        self.samplers += 1
        request = types.SaveWeightsForSamplerRequest(
            model_id=model, seq_id=seq_id, sampling_session_seq_id=self.samplers
        )
        return self.core.save_weights_for_sampler(request)

    def load(self, model: str, seq_id: int, path: str, optimizer: bool = False):
        request = types.LoadWeightsRequest(
            model_id=model, seq_id=seq_id, path=path, optimizer=optimizer
        )
        return self.core.load_weights(request)

    def sample(self, sampler: str, seq_id: int, prompt: tuple = (1, 2)):
        request = types.SampleRequest(
            sampling_session_id=sampler, seq_id=seq_id, num_samples=1,
            prompt=types.ModelInput.from_ints(list(prompt)),
            sampling_params=types.SamplingParams(max_tokens=2),
        )  # fmt: skip
        return self.core.sample(request)

    async def result(self, future: types.UntypedAPIFuture) -> dict | bytes:
        reply = await self.core.futures.fetch(future.request_id, timeout=20)
        assert reply is not None, "no result in 20 s"
        return json.loads(reply.body) if reply.media_type == "application/json" else reply.body

    async def error(self, future: types.UntypedAPIFuture) -> str:
        result = await self.result(future)
        assert "error" in result, result
        return result["error"]


def on_core(tmp_path, **options):
    """Decorates an async test that takes a core, its engine and a client."""

    def run(test) -> None:
        async def main() -> None:
            engine = StubEngine()
            core = Core(engine, Store(tmp_path), **options)
            async with core.running():
                await test(core, engine, Client(core))

        asyncio.run(main())

    return run


def calls(engine: StubEngine, *kinds: str) -> list[tuple]:
    return [call for call in engine.calls if call[0] in kinds]
