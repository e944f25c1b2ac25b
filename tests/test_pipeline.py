"""Never an idle cycle: nothing that a run does beside its steps makes a step miss a tick."""

import asyncio

import numpy as np
import tinker

from sft import train
from sft.types import SupervisedDataset
from tests import tick_service

TICK = 0.5  # seconds; evaluations and saves take as long


class Constant(SupervisedDataset):
    """Batches of the same sequence."""

    def __init__(self, batches, batch_size):
        self.batches, self.batch_size = batches, batch_size

    def __len__(self):
        return self.batches

    def get_batch(self, index):
        tokens = list(range(1, 65))
        datum = tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={
                "target_tokens": np.array(tokens[1:]),
                "weights": np.ones(63, dtype=np.float32),
            },
        )
        return self.batch_size * [datum]


def test_forty_steps_with_evaluations_and_saves_miss_at_most_one_tick(tmp_path, monkeypatch):
    with tick_service.running(tick=TICK, delay=TICK) as service:
        monkeypatch.setenv("TINKER_API_KEY", service.key)
        config = train.Config(
            log_path=str(tmp_path / "run"),
            model_name=tick_service.MODEL,
            dataset_builder=lambda: (Constant(40, 64), Constant(1, 4)),
            base_url=service.url,
            eval_every=10,
            save_every=10,
        )
        result = asyncio.run(train.main(config, settings={"run_name": "ticks"}))
        assert result.status == "FINISHED", result.error
        assert [record.step for record in result.checkpoints] == [10, 20, 30, 40]
        assert service.used() == 40
        assert service.missed() <= 1
