"""What is queued first is computed first: the SDK's numbering, and the files of a checkpoint."""

import asyncio
import multiprocessing
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import tinker
from safetensors.numpy import load_file

from sft import train
from sft.losses import LOSSES
from sft.run import training
from sft.run.training_queue import TrainingQueue
from tests.local.stub import KEY, MODEL, serving_stub
from tests.run.test_pipeline import Constant
from tests.test_train import chats, make_config, run  # noqa: F401 - fixtures

DATA = Constant(1, 1).get_batch(0)
ADAM = tinker.AdamParams(learning_rate=1e-4)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("stub")
    with serving_stub(root) as (url, core, _):
        yield url, core, root


@pytest.fixture
def client(service):
    """A training client whose SDK thread does nothing for half a second once `busy` is called."""
    url, core, _ = service
    holder = tinker.ServiceClient(base_url=url, api_key=KEY)
    made = holder.create_lora_training_client(base_model=MODEL, rank=4).result()
    yield made
    holder.close("success").result()


@contextmanager
def busy(client):
    """Within, the SDK's thread has begun nothing of what is called."""

    async def sleep():
        time.sleep(0.5)

    client.holder.run_coroutine_threadsafe(sleep())
    time.sleep(0.1)
    yield


def order(service, client):
    """The kinds of requests of `client`'s model, in the order in which they were numbered."""
    _, core, _ = service
    futures = [
        f for f in core.futures._futures.values() if f.request_id.startswith(client.model_id)
    ]
    numbered = sorted(futures, key=lambda f: int(f.request_id.rpartition(":")[2]))
    return [future.kind for future in numbered[1:]]  # the first has created the model


@pytest.mark.parametrize(
    "call, kind",
    [
        (lambda c: c.forward(DATA, "cross_entropy"), "forward"),
        (lambda c: c.forward_backward(DATA, "cross_entropy"), "forward_backward"),
        (lambda c: c.save_state("saved"), "save_weights"),
        (lambda c: c.save_weights_and_get_sampling_client(), "save_weights_for_sampler"),
    ],
)
def test_the_sdk_numbers_most_requests_when_they_are_called(service, client, call, kind):
    with busy(client):
        requests = [call(client), client.optim_step(ADAM)]
    for request in requests:
        request.result()
    assert order(service, client) == [kind, "optim_step"]


def test_the_sdk_numbers_save_weights_for_sampler_when_its_thread_comes_to_it(service, client):
    """Where this fails the SDK has changed, and `TrainingQueue.save` need not wait."""
    with busy(client):
        requests = [client.save_weights_for_sampler("saved"), client.optim_step(ADAM)]
    for request in requests:
        request.result()
    assert order(service, client) == ["optim_step", "save_weights_for_sampler"]


def test_both_files_of_a_checkpoint_come_before_what_is_queued_behind_them(service, client):
    async def save_and_step():
        queue = TrainingQueue(client, LOSSES["cross_entropy"], set())
        with busy(client):
            saves = await queue.save("saved", None)
            steps = queue.step(DATA, ADAM)
        for request in (*saves, *steps):
            await request

    asyncio.run(save_and_step())
    saves = ["save_weights", "save_weights_for_sampler"]
    assert order(service, client) == [*saves, "forward_backward", "optim_step"]


def two_files(root, record):
    """The weights in both files of a checkpoint."""
    folders = [
        root / path.removeprefix("tinker://") for path in (record.state_path, record.sampler_path)
    ]
    return [load_file(folder / "adapter_model.safetensors") for folder in folders]


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@contextmanager
def busy_processors():
    """Two processes that compute for nothing: the machine has no core to spare."""
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=_burn, daemon=True) for _ in range(2)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def _burn():
    while True:
        pass


@pytest.mark.parametrize("ahead", [0, 1, 8])
def test_both_files_of_every_checkpoint_hold_the_weights_of_its_step(
    service, tmp_path, monkeypatch, ahead
):
    """On a service whose weights are the number of steps taken."""
    url, _, root = service
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    config = train.Config(
        log_path=str(tmp_path / "run"),
        model_name=MODEL,
        dataset_builder=lambda: (Constant(24, 2), None),
        base_url=url,
        save_every=1,
        submit_ahead=ahead,
    )
    with busy_processors():
        result = asyncio.run(training.train(config, settings={"run_name": "saves"}))
    assert result.status == "FINISHED", result.error
    assert [record.step for record in result.checkpoints] == list(range(1, 25))
    held = [
        {int(array.flat[0]) for weights in two_files(root, record) for array in weights.values()}
        for record in result.checkpoints
    ]
    assert held == [{step} for step in range(1, 25)]


@pytest.mark.slow
def test_twenty_runs_beside_busy_processors_save_the_same_weights_twice(
    make_config, local_service_root  # noqa: F811
):  # fmt: skip
    with busy_processors():
        for number in range(20):
            result = run(make_config(f"run{number}", save_every=1, submit_ahead=8, num_epochs=2))
            assert result.status == "FINISHED", result.error
            assert len(result.checkpoints) == 10
            pairs = [two_files(Path(local_service_root), r) for r in result.checkpoints]
            assert [record.name for record, pair in zip(result.checkpoints, pairs, strict=True)
                    if not same(*pair)] == []  # fmt: skip
