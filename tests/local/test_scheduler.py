"""Order, cycles, failure and repetition."""

import asyncio
import random
import re
import time
from functools import partial

import pytest
from tinker import types

from sft.local.server.scheduler import MOST_WRITES
from sft.local.server.store import Store
from tests.local.direct import calls, on_core
from tests.local.stub import CRASH, MODEL, POISON, StubEngine


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
    @on_core(tmp_path)
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


def test_a_load_that_the_disk_fails_in_any_way_is_answered_and_the_next_one_works(
    tmp_path, monkeypatch, capfd
):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        path = (await client.result(client.save(model, 1, "a")))["path"]
        with monkeypatch.context() as broken:
            broken.setattr(Store, "_whole", lambda self, path: [][0])
            error = await client.error(client.load(model, 2, path))
            assert f"{path} cannot be read: IndexError" in error
            assert "earlier request" in await client.error(client.compute(model, 3))
        assert (await client.result(client.load(model, 4, path)))["path"] == path
        assert isinstance(await client.result(client.compute(model, 5)), bytes)

    assert "IndexError" in capfd.readouterr().err


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
        crashed, behind = client.compute(model, 1, token=CRASH), client.step(model, 2)
        for future in (crashed, behind):  # no fault of the user's: another try may go well
            result = await client.result(future)
            assert "out of memory" in result["error"] and result["category"] == "server"
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


@pytest.mark.parametrize("seed", range(5))
def test_any_mixture_in_any_order_with_repetitions_runs_by_seq_id(tmp_path, seed):
    noise = random.Random(seed)

    @on_core(tmp_path)
    async def _(core, engine, client):
        posts, expected = [], {}
        for number in range(3):
            model = await client.create(number)
            expected[model] = noise.choices(["run", "step", "state", "save"], k=40)
            for seq_id, kind in enumerate(expected[model], 1):
                post = {
                    "run": partial(client.compute, model, seq_id),
                    "step": partial(client.step, model, seq_id),
                    "state": partial(client.snapshot, model, seq_id),
                    "save": partial(client.save, model, seq_id, f"s{seq_id}"),
                }[kind]
                posts += [post] * noise.choice([1, 1, 2])
        noise.shuffle(posts)
        engine.calls.clear()
        futures = []
        for post in posts:
            futures.append(post())
            if noise.random() < 0.3:
                await asyncio.sleep(0.001)
        for future in futures:
            assert b"error" not in (await core.futures.fetch(future.request_id, 20)).body
        for model, kinds in expected.items():
            assert happened_to(model, engine) == ["state" if k == "save" else k for k in kinds]


def happened_to(model: str, engine: StubEngine) -> list[str]:
    order = []
    for kind, what, *_ in engine.calls:
        if kind == "run":
            what = [name for name, _ in what]
        if kind in ("run", "step", "state"):
            order += [kind] * ([what] if kind == "state" else what).count(model)
    return order


def test_saves_wait_for_the_disk_so_that_memory_is_bounded(tmp_path, monkeypatch):
    written, waiting = [], []

    @on_core(tmp_path)
    async def _(core, engine, client):
        def slow_write(self, path, *args, **values):
            time.sleep(0.02)
            waiting.append(len(calls(engine, "state")) - len(written))
            written.append(path)

        monkeypatch.setattr(Store, "write", slow_write)
        model = await client.create()
        futures = [client.save(model, seq_id, f"s{seq_id}") for seq_id in range(1, 21)]
        for future in futures:
            await client.result(future)
        assert max(waiting) <= MOST_WRITES
        assert len(written) == 20


def test_a_request_that_never_comes_fails_those_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sft.local.server.core.JANITOR_SECONDS", 0.05)
    monkeypatch.setattr("sft.local.server.core.GAP_SECONDS", 0.1)

    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        behind = [client.compute(model, 2), client.step(model, 3)]
        for future in behind:
            assert "request 1 of this model never arrived" in await client.error(future)
        assert engine.calls == [("create", model)]


def test_saves_go_on_where_all_that_may_wait_for_the_disk_end_at_one_moment(tmp_path):
    """While the event loop has other things to do: it then hears of all of them at once."""

    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create(0)
        posts = [client.save(model, seq_id, f"s{seq_id}") for seq_id in range(1, 10)]
        while len(core.scheduler._writes) < MOST_WRITES:
            await asyncio.sleep(0)
        core.backend._disk_thread.submit(lambda: None).result()  # the disk has done all of them
        for post in posts:
            assert await core.futures.fetch(post.request_id, 20) is not None
