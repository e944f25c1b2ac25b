"""Never an idle cycle: nothing that a run does beside its steps makes a step miss a tick."""

import asyncio

import numpy as np
import tinker

from sft import train
from sft.record import metrics
from sft.run import training
from sft.types import SupervisedDataset
from tests import tick_service


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


def run_of(steps, service, log_path, held_out=1, **options):
    config = train.Config(
        log_path=str(log_path),
        model_name=tick_service.MODEL,
        dataset_builder=lambda: (Constant(steps, 64), Constant(held_out, 4)),
        base_url=service.url,
        **options,
    )
    return asyncio.run(training.train(config, settings={"run_name": "ticks"}))


def test_forty_steps_with_evaluations_and_saves_miss_no_tick(tmp_path, monkeypatch):
    with tick_service.running(steps=40) as service:
        monkeypatch.setenv("TINKER_API_KEY", service.key)
        result = run_of(40, service, tmp_path / "run", eval_every=10, save_every=10)
        assert result.status == "FINISHED", result.error
        assert [record.step for record in result.checkpoints] == [10, 20, 30, 40]
        assert (service.used(), service.missed()) == (40, 0)


def test_evaluations_that_take_longer_than_the_whole_training_miss_no_tick(tmp_path, monkeypatch):
    """Of as many sequences as are asked for by another process."""
    with tick_service.running(steps=12, delay=30) as service:
        monkeypatch.setenv("TINKER_API_KEY", service.key)
        result = run_of(12, service, tmp_path / "run", held_out=25, eval_every=6)
        assert result.status == "FINISHED" and not result.failed_evaluations
        rows = {row["step"]: row for row in metrics.read(tmp_path / "run" / "metrics.jsonl")}
        assert [step for step, row in rows.items() if "eval/nll" in row] == [0, 6, 12]
        assert (service.used(), service.missed()) == (12, 0)


def test_a_run_that_submits_nothing_ahead_misses_a_tick_between_any_two_steps(
    tmp_path, monkeypatch
):
    with tick_service.running(steps=5, patience=0.2) as service:
        monkeypatch.setenv("TINKER_API_KEY", service.key)
        result = run_of(5, service, tmp_path / "run", submit_ahead=0)
        assert result.status == "FINISHED", result.error
        assert service.used() == 5
        assert service.missed() >= 4
