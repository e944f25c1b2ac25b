"""What evaluations ask at width is asked by another process, and nothing depends on it."""

import asyncio
import threading
import time

import pytest
import tinker

from sft.evaluation import sampler
from sft.evaluation.sampler import MOST_HERE, SamplerProcess
from tests.local.stub import CRASH, KEY, MODEL, StubEngine, serving_stub

WIDTH = 3 * MOST_HERE
CLONES = 10**9  # where the seq_ids of a client's copies in other processes begin


class Held(StubEngine):
    """Samples nothing before `released` is set."""

    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def sample(self, work):
        assert self.released.wait(60)
        return super().sample(work)


@pytest.fixture
def service(tmp_path):
    with serving_stub(tmp_path, Held()) as (url, core, engine):
        yield url, core, engine
        engine.released.set()


@pytest.fixture
def client(service):
    """A sampling client of the service."""
    url, _, _ = service
    holder = tinker.ServiceClient(base_url=url, api_key=KEY)
    training = holder.create_lora_training_client(base_model=MODEL, rank=4).result()
    yield training.save_weights_and_get_sampling_client().result()
    holder.close("success").result()


@pytest.fixture
def process():
    made = SamplerProcess()
    yield made
    if made.child is not None:
        made.child.kill()


def prompts(count):
    return [tinker.ModelInput.from_ints([1 + i % 9] * (5 + i % 3)) for i in range(count)]


def asked(core):
    """How many requests the client has made, and how many its copies in other processes."""
    seen = [number for one in core.sessions.samplers() for number in one.seen]
    copies = sum(number >= CLONES for number in seen)
    return len(seen) - copies, copies


def awaited(core):
    """How many answers of the service somebody is waiting for."""
    return sum(bool(future.done._waiters) for future in core.futures._futures.values())


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


async def scores(client, process, count):
    with sampler.beside(client, process) as beside:
        return await asyncio.gather(
            *(beside.compute_logprobs(prompt).coroutine() for prompt in prompts(count))
        )


def test_a_few_requests_at_once_need_no_process(service, client, process):
    _, core, engine = service
    engine.released.set()
    asyncio.run(scores(client, process, MOST_HERE))
    assert asked(core) == (MOST_HERE, 0) and process.child is None


def test_more_are_asked_by_the_process_with_the_same_answers(service, client, process):
    _, core, engine = service
    engine.released.set()
    found = asyncio.run(scores(client, process, WIDTH))
    assert asked(core) == (MOST_HERE, WIDTH - MOST_HERE)
    assert found == [client.compute_logprobs(prompt).result() for prompt in prompts(WIDTH)]


def test_a_sample_from_the_process_is_the_sdks_own_object(service, client, process, monkeypatch):
    monkeypatch.setattr(sampler, "MOST_HERE", 0)
    _, core, engine = service
    engine.released.set()
    parameters = tinker.SamplingParams(max_tokens=3)
    with sampler.beside(client, process) as beside:
        there = beside.sample(prompts(1)[0], num_samples=2, sampling_params=parameters).result()
    assert asked(core) == (0, 1)
    here = client.sample(prompts(1)[0], num_samples=2, sampling_params=parameters).result()
    assert type(there) is type(here)
    assert [one.tokens for one in there.sequences] == [one.tokens for one in here.sequences]


def test_a_request_that_is_refused_raises_the_sdks_error(service, client, process, monkeypatch):
    monkeypatch.setattr(sampler, "MOST_HERE", 0)
    _, _, engine = service
    engine.released.set()
    with sampler.beside(client, process) as beside:
        too_long = tinker.ModelInput.from_ints([1] * (engine.info.max_context_length + 1))
        with pytest.raises(tinker.UnprocessableEntityError, match="context holds 4096"):
            beside.compute_logprobs(too_long).result()
        with pytest.raises(tinker.RequestFailedError, match="out of memory"):
            beside.compute_logprobs(tinker.ModelInput.from_ints([CRASH])).result()


def test_what_a_dead_process_was_asked_is_asked_here(service, client, process):
    _, core, engine = service

    async def interrupted():
        asking = asyncio.create_task(scores(client, process, WIDTH))
        await asyncio.to_thread(until, lambda: asked(core)[1] > 0)
        process.child.kill()
        engine.released.set()
        return await asking

    found = asyncio.run(interrupted())
    assert found == [client.compute_logprobs(prompt).result() for prompt in prompts(WIDTH)]


def test_an_evaluation_that_is_given_up_leaves_nothing_on_the_service(service, client, process):
    _, core, engine = service

    async def given_up():
        asking = asyncio.create_task(scores(client, process, WIDTH))
        await asyncio.to_thread(until, lambda: awaited(core) == WIDTH)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.to_thread(until, lambda: not core.sampling._queue)

    asyncio.run(given_up())
    assert not process._waiting and process._under_way == 0


def test_the_process_ends_with_the_one_that_started_it(service, client, process):
    engine = service[2]
    engine.released.set()
    asyncio.run(scores(client, process, WIDTH))
    process.child.stdin.close()
    assert process.child.wait(30) == 0
