"""Order, cycles, failure and repetition, without HTTP: a core around an engine of constants."""

import asyncio
import contextlib
import json
import re

import numpy as np
import pytest
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from sft.local.core import Core
from sft.local.engine_api import TrainingSequence
from sft.local.futures import Futures, Reply, UnknownRequest
from sft.local.sampling import MOST_LOADED, MOST_SNAPSHOTS
from sft.local.sessions import Gone
from sft.local.store import Store
from tests.local.stub import CRASH, MODEL, POISON, StubEngine


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
        return self.core.compute(message, [sequence])

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


def test_requests_run_in_the_order_of_their_seq_ids_however_they_arrive(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        step = client.step(model, 4)
        futures = [client.compute(model, seq_id) for seq_id in (3, 2)]
        await asyncio.sleep(0.05)
        assert calls(engine, "run", "step") == []  # the first has not come
        futures.append(client.compute(model, 1))
        for future in [*futures, step]:
            await client.result(future)
        assert calls(engine, "run", "step") == [("run", [(model, True)] * 3), ("step", [model])]


def test_a_cycle_computes_all_models_together_up_to_their_first_step(tmp_path):
    @on_core(tmp_path, tick=0.1)
    async def _(core, engine, client):
        first, second = await client.create(0), await client.create(1)
        engine.calls.clear()
        last = None
        for model in (first, second):
            for seq_id in (1, 3):
                client.compute(model, seq_id)
                last = client.step(model, seq_id + 1)
        await client.result(last)
        both = [("run", [(first, True), (second, True)]), ("step", [first, second])]
        assert engine.calls == both * 2


def test_saves_behind_a_step_see_its_weights_and_nothing_later(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        client.compute(model, 1)
        client.step(model, 2)
        save, snapshot = client.save(model, 3, "one"), client.snapshot(model, 4)
        client.compute(model, 5)
        last = client.step(model, 6)
        path = (await client.result(save))["path"]
        sampler = (await client.result(snapshot))["sampling_session_id"]
        await client.result(last)
        assert path == f"tinker://{model}/weights/one"
        weights = core.store.read(core.store.list()[0].path).weights
        assert next(iter(weights.values()))[0] == 1
        assert next(iter(engine.samplers[sampler].weights.values()))[0] == 1


def test_a_load_behind_a_save_finds_it(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        save = client.save(model, 1, "a")
        load = client.load(model, 2, f"tinker://{model}/weights/a", optimizer=True)
        assert (await client.result(save))["path"] == (await client.result(load))["path"]


def test_a_repeated_request_gets_the_first_answer_and_acts_once(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        assert await client.create() == model
        first = client.compute(model, 1)
        again = client.compute(model, 1)
        await client.result(first)
        late = client.compute(model, 1)
        assert first.request_id == again.request_id == late.request_id
        save = client.save(model, 2, "a")
        assert await client.result(save) == await client.result(client.save(model, 2, "a"))
        snapshot = client.snapshot(model, 3)
        sampler = (await client.result(snapshot))["sampling_session_id"]
        for _ in range(2):
            sampled = client.sample(sampler, 0)
            await client.result(sampled)
        assert len(calls(engine, "create")) == 1
        assert len(calls(engine, "run")) == 1
        assert len(calls(engine, "sample")) == 1
        assert sampled.sample_sequence_ids == [f"{sampler}:0:0"]


def test_a_failure_fails_what_depends_on_it_until_a_state_is_loaded(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model, other = await client.create(0), await client.create(1)
        await client.result(client.save(model, 1, "good"))
        parts = [client.compute(model, 3), client.compute(model, 4, token=POISON)]
        beside = client.compute(other, 1)
        parts.insert(0, client.compute(model, 2))
        behind = [client.step(model, 5), client.save(model, 6, "bad"), client.snapshot(model, 7)]
        behind.append(client.compute(model, 8, backward=False))
        assert f"token {POISON}" in await client.error(parts[2])
        for future in (parts[0], parts[1], beside):
            assert isinstance(await client.result(future), bytes)
        for future in behind:
            error = await client.error(future)
            assert "earlier request" in error and f"token {POISON}" in error
        assert calls(engine, "step") == []
        await client.result(client.load(model, 9, f"tinker://{model}/weights/good"))
        client.compute(model, 10)
        assert await client.result(client.step(model, 11)) == {"metrics": {"grad_norm": 1.0}}


def test_a_failed_forward_fails_alone(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        await client.error(client.compute(model, 1, backward=False, token=POISON))
        assert isinstance(await client.result(client.compute(model, 2)), bytes)


def test_an_engine_that_breaks_down_fails_the_cycle_and_lives_on(tmp_path, capfd):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model, other = await client.create(0), await client.create(1)
        assert "out of memory" in await client.error(client.compute(model, 1, token=CRASH))
        assert isinstance(await client.result(client.compute(other, 1)), bytes)
        sampler = (await client.result(client.snapshot(other, 2)))["sampling_session_id"]
        assert "out of memory" in await client.error(client.sample(sampler, 0, (1, CRASH)))
        assert isinstance(await client.result(client.sample(sampler, 1)), bytes)

    assert "out of memory" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"beta2": 1.0}, "beta2"),
        ({"eps": -1.0}, "eps"),
        ({"grad_clip_norm": float("inf")}, "grad_clip_norm"),
    ],
)
def test_a_step_out_of_bounds_names_the_parameter(tmp_path, params, named):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        assert named in await client.error(client.step(model, 1, **params))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"optimizer_config": types.DimuonOptimizerConfig()}, "dimuon.*adamw"),
        ({"lora_config": types.LoraConfig(rank=0)}, "rank is 0"),
        ({"base_model": "nobody/nothing"}, f"nobody/nothing.*{MODEL}"),
        ({"lora_config": None}, "lora_config is missing"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(tmp_path, values, named):
    @on_core(tmp_path)
    async def _(core, engine, client):
        request = types.CreateModelRequest(
            session_id=client.session, model_seq_id=0,
            **{"base_model": MODEL, "lora_config": types.LoraConfig(rank=1), **values},
        )  # fmt: skip
        assert re.search(named, await client.error(core.create_model(request)))
        assert calls(engine, "create") == []


def test_a_session_that_ends_releases_all_it_held(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        await client.result(client.snapshot(model, 1))
        waiting = client.compute(model, 3)  # behind a gap
        assert engine.adapters and engine.samplers
        core.sessions.end(client.session, "the session has ended")
        assert "ended" in await client.error(waiting)
        for _ in range(100):
            if not engine.adapters and not engine.samplers:
                break
            await asyncio.sleep(0.02)
        assert not engine.adapters and not engine.samplers
        with pytest.raises(Gone, match="not open"):
            client.compute(model, 2)


def test_a_session_without_a_heartbeat_ends(tmp_path):
    @on_core(tmp_path, session_timeout=0.1)
    async def _(core, engine, client):
        await asyncio.sleep(0.2)
        core.sessions.expire()
        with pytest.raises(Gone, match="no heartbeat"):
            core.sessions.get(client.session)


def test_snapshots_are_bounded_and_the_last_used_stay(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        samplers = []
        for seq_id in range(1, MOST_SNAPSHOTS + 5):
            result = await client.result(client.snapshot(model, seq_id))
            samplers.append(result["sampling_session_id"])
            await client.result(client.sample(samplers[0], seq_id))
        assert len(engine.samplers) == MOST_SNAPSHOTS
        assert samplers[0] in engine.samplers and samplers[-1] in engine.samplers
        assert "was released" in await client.error(client.sample(samplers[1], 0))


def test_samplers_of_checkpoints_make_room_and_are_read_again(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        path = (await client.result(client.save(model, 1, "a")))["path"]
        samplers = []
        for number in range(MOST_LOADED + 4):
            request = types.CreateSamplingSessionRequest(
                session_id=client.session, sampling_session_seq_id=number, model_path=path
            )
            samplers.append(core.create_sampling_session(request, MODEL))
            assert core.create_sampling_session(request, MODEL) == samplers[-1]
            await client.result(client.sample(samplers[-1], 0))
        assert len(engine.samplers) == MOST_LOADED
        assert isinstance(await client.result(client.sample(samplers[0], 1)), bytes)


def test_training_and_sampling_take_turns(tmp_path, monkeypatch):
    for bound in ("SMALLEST_BATCH", "LARGEST_BATCH"):
        monkeypatch.setattr(f"sft.local.sampling.{bound}", 4)  # one request a batch

    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        sampler = (await client.result(client.snapshot(model, 1)))["sampling_session_id"]
        engine.calls.clear()
        futures = []
        for number in range(20):
            futures.append(client.sample(sampler, number))
            futures.append(client.compute(model, 2 * number + 2))
            futures.append(client.step(model, 2 * number + 3))
        for future in futures:
            await client.result(future)
        turns = "".join(call[0][1] for call in engine.calls)  # a: sample, u: run, t: step
        assert turns in ("aut" * 20, "uta" * 20)


def test_a_batch_of_samples_is_as_much_work_as_the_training_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sft.local.sampling.SMALLEST_BATCH", 12)

    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        sampler = (await client.result(client.snapshot(model, 1)))["sampling_session_id"]
        engine.calls.clear()
        futures = [client.compute(model, 2)]  # two tokens
        futures += [client.sample(sampler, number) for number in range(20)]  # four tokens each
        futures.append(client.compute(model, 3))
        for future in futures:
            await client.result(future)
        sizes = [len(call[1]) for call in calls(engine, "sample")]
        assert sum(sizes) == 20
        assert 3 in sizes  # beside training
        assert sizes[-1] > 3  # alone


def test_a_cancelled_sample_is_not_computed(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        sampler = (await client.result(client.snapshot(model, 1)))["sampling_session_id"]
        future = client.sample(sampler, 0)
        core.sampling.cancel(future.request_id)
        assert "cancelled" in await client.error(future)
        await client.result(client.sample(sampler, 1))
        assert len(calls(engine, "sample")) == 1


def test_a_request_that_never_comes_fails_those_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sft.local.core.JANITOR_SECONDS", 0.05)
    monkeypatch.setattr("sft.local.core.GAP_SECONDS", 0.1)

    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        behind = [client.compute(model, 2), client.step(model, 3)]
        for future in behind:
            assert "request 1 of this model never arrived" in await client.error(future)
        assert engine.calls == [("create", model)]


def test_results_are_kept_a_while_and_within_bounds():
    async def main() -> None:
        now = [0.0]
        futures = Futures(keep_bytes=1000, keep_fetched=300, clock=lambda: now[0])
        for number in range(30):
            futures.open(str(number), "session", "sample")
            futures.resolve(str(number), Reply(b"x" * 100))
            futures.resolve(str(number), Reply(b"another answer"))
            with contextlib.suppress(UnknownRequest):
                if number == 28:
                    await futures.fetch("28", 0)
        assert (await futures.fetch("29", 0)).body == b"x" * 100
        with pytest.raises(UnknownRequest):
            await futures.fetch("0", 0)
        now[0] = 300.0
        futures.sweep()
        with pytest.raises(UnknownRequest):
            await futures.fetch("28", 0)

    asyncio.run(main())
