"""What fails on the way of a run: what is tried again, what is not, what stays, what is said."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from sft.errors import BadInput
from sft.hooks import BaseHook
from sft.local.server import durable
from sft.record import rundir
from tests import faulty_service
from tests.failing_runs import Listen, go, trained_steps
from tests.run.test_pipeline import Constant
from tests.test_train import chats, make_config, run  # noqa: F401 - fixtures

# --- the disk of the service --------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch):
    """`full(when)`: the disk has no space for a checkpoint whose name `when` is true of."""
    write = durable.write_folder

    def full(when):
        def refuse(target, fill):
            if when(target.name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(target, fill)

        monkeypatch.setattr(durable, "write_folder", refuse)

    return full


def test_a_full_disk_at_the_last_save_costs_no_second_training(stub, full_disk):
    make, engine = stub
    full_disk(lambda name: name == "final")
    listen = Listen()
    result = go(make(save_every=4), hooks=[listen])
    assert result.status == "FAILED" and trained_steps(engine) == 10
    assert [record.name for record in result.checkpoints] == ["000004", "000008"]
    assert "No space left on device" in result.error and "free some space" in result.error
    assert "sft.resume" in result.error and "goes on from 000008" in result.error
    assert listen.result is result


def test_a_run_goes_on_from_its_last_checkpoint_once_there_is_space(stub, full_disk):
    make, engine = stub
    full_disk(lambda name: name == "final")
    go(make(save_every=4))
    full_disk(lambda name: False)
    resumed = go(make(save_every=4))
    assert resumed.status == "FINISHED", resumed.error
    assert trained_steps(engine) == 10 + 2
    assert resumed.checkpoints[-1].step == 10


def test_a_full_disk_at_a_periodic_save_costs_that_checkpoint_alone(stub, full_disk):
    make, engine = stub
    full_disk(lambda name: name == "000004")
    listen = Listen()
    result = go(make(save_every=4), hooks=[listen])
    assert result.status == "FINISHED" and trained_steps(engine) == 10
    assert [record.name for record in result.checkpoints] == ["000008", "final"]
    assert sum("000004 was not saved" in text for text in listen.messages) == 1


# --- requests that the service does not understand ----------------------------------------------


@pytest.fixture
def fast_patience(monkeypatch):
    """The SDK's five minutes of trying again pass in a second."""
    from tinker import _base_client
    from tinker.lib import internal_client_holder

    class Fast:
        def __getattr__(self, name):
            return getattr(time, name)

        @staticmethod
        def time():
            return time.time() * 300

    monkeypatch.setattr(internal_client_holder, "time", Fast())
    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(_base_client, "MAX_RETRY_DELAY", 0.01)


@pytest.mark.parametrize("kind", ["forward_backward", "optim_step"])
def test_a_request_that_never_worked_ends_the_run_at_its_first_failure(stub, fast_patience, kind):
    make, _ = stub
    listen = Listen()
    with faulty_service.before(make().base_url, {f"POST /api/v1/{kind}": 500}) as faulty:
        result = go(make(base_url=faulty.url), hooks=[listen])
    assert result.status == "FAILED"
    assert f"answers {kind} with an error (500" in result.error
    assert not any("was lost" in text for text in listen.messages)


@pytest.mark.parametrize(
    ("kind", "status", "steps"),
    [
        ("create_model", 500, 0),
        ("create_model", 404, 0),
        ("forward_backward", 404, 0),
        ("save_weights", 404, 10),
        ("save_weights", 500, 10),
        ("save_weights_for_sampler", 400, 10),
    ],
)
def test_a_request_that_the_service_has_not_costs_no_second_training(
    stub, fast_patience, kind, status, steps
):
    make, engine = stub
    held_out = None  # no snapshots, which are asked for in the same way as a sampler's weights
    with faulty_service.before(make().base_url, {f"POST /api/v1/{kind}": status}) as faulty:
        result = go(make(base_url=faulty.url, dataset_builder=lambda: (Constant(10, 2), held_out)))
    assert result.status == "FAILED" and trained_steps(engine) == steps
    assert "for the test" in result.error and faulty.seen.total() < 60


def test_a_periodic_save_that_is_refused_at_the_door_ends_the_run_with_a_sentence(stub):
    """Its place in the service's queue stays open, so that nothing behind it is computed."""
    make, _ = stub
    with faulty_service.before(make().base_url, {"POST /api/v1/save_weights": 400}) as faulty:
        result = go(make(base_url=faulty.url, save_every=3))
    assert result.status == "FAILED" and "checkpoint 000003 was not saved" in result.error


def test_a_service_without_snapshots_trains_without_evaluations(stub):
    make, engine = stub
    faults = {"POST /api/v1/save_weights_for_sampler": 404}
    listen = Listen()
    with faulty_service.before(make().base_url, faults) as faulty:
        result = go(make(base_url=faulty.url), hooks=[listen])
        assert trained_steps(engine) == 10
    assert [f.step for f in result.failed_evaluations] == [0, 10]
    assert any("goes on without evaluations" in text for text in listen.messages)


@pytest.mark.parametrize("status", [400, 422])
def test_a_model_that_cannot_be_created_is_told_to_the_hooks(stub, status):
    make, _ = stub
    listen = Listen()
    with faulty_service.before(make().base_url, {"POST /api/v1/create_model": status}) as faulty:
        result = go(make(base_url=faulty.url), hooks=[listen])
    assert result.status == "FAILED" and "for the test" in result.error
    assert listen.events == ["start", "end"] and listen.result is result


def test_a_rank_that_the_service_refuses_is_bad_input_that_leaves_nothing(make_config):  # noqa: F811
    config = make_config(lora_rank=2000)
    with pytest.raises(BadInput, match="rank is 2000: expected 1 to 1024"):
        run(config)
    assert not Path(config.log_path).exists()


def test_a_resumed_run_that_is_refused_stays_as_it_ended(stub):
    make, _ = stub
    ended = go(make(save_every=4), hooks=[StopAt(5)])
    assert ended.status == "KILLED"
    with pytest.raises(BadInput, match="does not train"):
        go(make(save_every=4, model_name="another"))
    assert rundir.read_facts(ended.directory)["status"] == "KILLED"


class StopAt(BaseHook):
    def __init__(self, step):
        self.step = step

    def on_start(self, run):
        self.run = run

    def on_progress(self, step, values):
        if step == self.step:
            self.run.stop("for the test", "KILLED")


class BadFrom(Constant):
    """Data whose line 7 turns out to be bad once the run is on its way."""

    def get_batch(self, index):
        if index == 6:
            raise BadInput("data.jsonl: line 7: for the test")
        return super().get_batch(index)


def test_bad_data_found_on_the_way_leaves_the_checkpoints_before_it(stub):
    make, _ = stub
    result = go(make(save_every=2, dataset_builder=lambda: (BadFrom(10, 2), None)))
    assert result.status == "FAILED" and "line 7: for the test" in result.error
    assert result.checkpoints and (result.directory / "checkpoints.jsonl").exists()


# --- checkpoints that are to go -----------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_deleted_costs_a_warning(stub):
    make, _ = stub
    listen = Listen()
    with faulty_service.before(make().base_url, {"DELETE .*": 400}) as faulty:
        result = go(make(base_url=faulty.url, save_every=2, keep_checkpoints=1), hooks=[listen])
    assert result.status == "FINISHED", result.error
    assert any("stays on the service" in text for text in listen.messages)


def test_a_finished_run_says_nothing_of_failures(stub):
    make, _ = stub
    result = go(make())
    assert "failed_evaluations" not in json.loads((result.directory / "run.json").read_text())
