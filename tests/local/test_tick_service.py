"""The tick service counts what it is there to count, however fast or slow the machine is."""

import time

import tinker
from tinker import types

from tests import tick_service
from tests.local.stub import MODEL

DATUM = types.Datum(
    model_input=types.ModelInput.from_ints([1, 2, 3]),
    loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]},
)
ADAM = types.AdamParams(learning_rate=1e-4)
STEPS = 5


def _client(service: tick_service.TickService) -> tinker.TrainingClient:
    client = tinker.ServiceClient(base_url=service.url, api_key=service.key)
    return client.create_lora_training_client(MODEL, rank=4).result()


def _submit(client: tinker.TrainingClient):
    client.forward_backward([DATUM], "cross_entropy")
    return client.optim_step(ADAM)


def test_steps_that_are_queued_ahead_miss_no_tick(tmp_path):
    with tick_service.running(tmp_path, steps=STEPS) as service:
        client = _client(service)
        steps = []
        for _ in range(STEPS):
            steps.append(_submit(client))
            if len(steps) == 3:
                save = client.save_state("middle")
        for step in [*steps, save]:
            step.result()
        assert (service.used(), service.missed()) == (STEPS, 0)


def test_the_clock_waits_for_a_slow_machine_that_has_a_step_queued_before_each_answer(tmp_path):
    with tick_service.running(tmp_path, steps=STEPS) as service:
        client = _client(service)
        before = _submit(client)
        for _ in range(STEPS - 1):
            time.sleep(0.1)  # many times what a tick lasts here
            step = _submit(client)
            before.result()
            before = step
        step.result()
        assert (service.used(), service.missed()) == (STEPS, 0)


def test_a_loop_that_waits_for_each_answer_misses_a_tick_between_any_two_steps(tmp_path):
    with tick_service.running(tmp_path, steps=STEPS, patience=0.2) as service:
        client = _client(service)
        for _ in range(STEPS):
            _submit(client).result()
        assert service.used() == STEPS
        assert service.missed() >= STEPS - 1


def test_a_loop_that_waits_for_each_part_of_a_step_misses_more(tmp_path):
    with tick_service.running(tmp_path, steps=STEPS, patience=0.2) as service:
        client = _client(service)
        for _ in range(STEPS):
            client.forward_backward([DATUM], "cross_entropy").result()
            client.optim_step(ADAM).result()
        assert service.used() == STEPS
        assert service.missed() >= 3 * (STEPS - 1)


def test_a_loop_that_waits_for_a_save_misses_ticks(tmp_path):
    with tick_service.running(tmp_path, steps=STEPS, patience=0.2) as service:
        client = _client(service)
        steps = [_submit(client), _submit(client)]
        client.save_state("middle").result()
        steps += [_submit(client) for _ in range(STEPS - 2)]
        steps[-1].result()
        assert service.used() == STEPS
        assert service.missed() >= 1
