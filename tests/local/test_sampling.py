"""Samplers: how many there are, who takes turns with whom."""

from tinker import types

from sft.local.server.sampling import MOST_LOADED, MOST_SNAPSHOTS
from tests.local.direct import calls, on_core
from tests.local.stub import MODEL


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
        monkeypatch.setattr(f"sft.local.server.sampling.{bound}", 4)  # one request a batch

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
    monkeypatch.setattr("sft.local.server.sampling.SMALLEST_BATCH", 12)

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
