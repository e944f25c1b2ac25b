"""The tick service counts what it is there to count."""

import tinker
from tinker import types

from tests import tick_service
from tests.local.stub import MODEL

DATUM = types.Datum(
    model_input=types.ModelInput.from_ints([1, 2, 3]),
    loss_fn_inputs={"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]},
)
ADAM = types.AdamParams(learning_rate=1e-4)


def _client(service: tick_service.TickService) -> tinker.TrainingClient:
    client = tinker.ServiceClient(base_url=service.url, api_key=service.key)
    return client.create_lora_training_client(MODEL, rank=4).result()


def test_steps_that_are_queued_ahead_miss_no_tick(tmp_path):
    with tick_service.running(tmp_path, tick=0.3, delay=0.3) as service:
        client = _client(service)
        steps = []
        for _ in range(5):
            client.forward_backward([DATUM], "cross_entropy")
            steps.append(client.optim_step(ADAM))
            if len(steps) == 3:
                save = client.save_state("middle")
        for step in [*steps, save]:
            step.result()
        assert (service.used(), service.missed()) == (5, 0)


def test_a_loop_that_waits_for_each_part_of_a_step_misses_ticks(tmp_path):
    with tick_service.running(tmp_path, tick=0.1) as service:
        client = _client(service)
        for _ in range(3):
            client.forward_backward([DATUM], "cross_entropy").result()
            client.optim_step(ADAM).result()
        assert service.used() == 3
        assert service.missed() >= 2
