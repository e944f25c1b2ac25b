"""What fails on the way of a run: what is tried again, what is not, what stays, what is said."""

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft import rundir, service, train
from sft.errors import BadInput
from sft.evaluators import Prompt, SamplingEvaluator
from sft.hooks import BaseHook
from sft.local import durable
from tests import faulty_service
from tests.local.stub import KEY, MODEL, serving_stub
from tests.test_evaluators import CountCalls
from tests.test_pipeline import Constant
from tests.test_train import TINY_MODEL, chats, make_config, run  # noqa: F401 - fixtures


class Listen(BaseHook):
    """Keeps what a run tells."""

    def __init__(self):
        self.events, self.messages, self.result = [], [], None

    def on_start(self, run):
        self.events.append("start")

    def on_message(self, text):
        self.messages.append(text)

    def on_end(self, result):
        self.events.append("end")
        self.result = result


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A service that computes nothing, and a config of ten steps on it."""
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    with serving_stub(tmp_path / "service") as (url, _, engine):

        def config(**changes):
            fields = dict(
                log_path=str(tmp_path / "run"),
                model_name=MODEL,
                dataset_builder=lambda: (Constant(10, 2), Constant(1, 2)),
                base_url=url,
            )
            return train.Config(**(fields | changes))

        yield config, engine


def go(config, **options):
    return asyncio.run(train.main(config, settings={"run_name": "failing"}, **options))


def trained_steps(engine):
    return sum(kind == "step" for kind, *_ in engine.calls)


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


def test_a_failed_start_is_printed_and_recorded_in_mlflow(place):
    faults = {"POST /api/v1/create_model": 422}
    code, output = command("sft", faults, place, "tracking.uri=sqlite:///mlflow.db")
    assert code == 1 and "FAILED after 0 steps" in output and "for the test" in output
    assert "Traceback" not in output
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place[0]}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("sft").experiment_id])
    assert found.info.status == "FAILED" and "for the test" in found.data.tags["sft.error"]


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


# --- evaluations --------------------------------------------------------------------------------


class Raising:
    name = "mine"

    async def __call__(self, sampling_client):
        raise ZeroDivisionError("for the test")


def test_an_evaluator_that_raises_costs_its_own_numbers_alone(make_config):  # noqa: F811
    listen = Listen()
    config = make_config(evaluator_builders=[Raising, lambda: CountCalls("other")])
    result = run(config, hooks=[listen])
    assert result.status == "FINISHED", result.error
    assert result.last["eval/other"] == 2 and "eval/nll" in result.last
    failed = [(f.step, f.name, f.error) for f in result.failed_evaluations]
    assert failed == [(s, "mine", "ZeroDivisionError: for the test") for s in (0, 5)]
    assert sum("evaluation 'mine'" in text for text in listen.messages) == 2
    recorded = rundir.read_facts(result.directory)["failed_evaluations"]
    assert [entry["name"] for entry in recorded] == ["mine", "mine"]


@pytest.mark.parametrize("value", ["abc", None, [1.0]])
def test_a_metric_that_is_no_number_costs_its_evaluation_alone(stub, value):
    make, _ = stub
    result = go(make(evaluator_builders=[lambda: Returning({"eval/mine": value})]))
    assert result.status == "FINISHED", result.error
    assert "eval/mine: expected a number" in result.failed_evaluations[0].error
    assert "eval/nll" in result.last


def test_numbers_of_other_kinds_are_written_as_plain_ones(stub):
    import numpy as np

    make, _ = stub
    result = go(make(evaluator_builders=[lambda: Returning({"eval/mine": np.float32(0.5)})]))
    assert result.status == "FINISHED" and result.last["eval/mine"] == 0.5


def test_an_evaluator_that_calls_its_input_bad_or_cannot_reach_its_judge_ends_no_run(stub):
    import httpx
    import tinker

    elsewhere = httpx.Request("POST", "http://judge.invalid/api/v1/asample")
    for error in (BadInput("no such judge"), tinker.APIConnectionError(request=elsewhere)):
        make, _ = stub
        name = type(error).__name__
        config = make(
            evaluator_builders=[lambda e=error: Returning(e)], log_path=f"{make().log_path}-{name}"
        )
        listen = Listen()
        result = go(config, hooks=[listen])
        assert result.status == "FINISHED", result.error
        assert {f.name for f in result.failed_evaluations} == {"returning"}
        assert not any("was lost" in text for text in listen.messages)


class Returning:
    name = "returning"

    def __init__(self, found):
        self.found = found

    async def __call__(self, sampling_client):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_a_prompt_beyond_the_context_costs_its_evaluation_alone(make_config):  # noqa: F811
    def build():
        return SamplingEvaluator([Prompt([5] * 600, "long")], tokenizer=None, stop=[], name="long")

    result = run(make_config(evaluator_builders=[build]))
    assert result.status == "FINISHED", result.error
    assert {f.name for f in result.failed_evaluations} == {"long"}
    assert "512" in result.failed_evaluations[0].error
    assert "eval/nll" in result.last


def test_a_service_that_cannot_sample_trains_all_the_same(stub):
    make, _ = stub
    faults = {"POST /api/v1/asample": 404}
    with faulty_service.before(make().base_url, faults) as faulty:
        result = go(make(base_url=faulty.url))
    assert result.status == "FINISHED", result.error
    assert [f.step for f in result.failed_evaluations] == [0, 10]


# --- checkpoints that are to go -----------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_deleted_costs_a_warning(stub):
    make, _ = stub
    listen = Listen()
    with faulty_service.before(make().base_url, {"DELETE .*": 400}) as faulty:
        result = go(make(base_url=faulty.url, save_every=2, keep_checkpoints=1), hooks=[listen])
    assert result.status == "FINISHED", result.error
    assert any("stays on the service" in text for text in listen.messages)


# --- what is printed ----------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, tiny_model, local_service, chats):  # noqa: F811
    overrides = [
        "dataset=jsonl", f"dataset.path={chats}", "dataset.eval_size=4", "batch_size=4",
        "model=folder", f"model.name={TINY_MODEL}", f"model.tokenizer={tiny_model}",
        "max_length=128", "lora.rank=4", "tracking=none", "evaluators=none", "service=custom",
    ]  # fmt: skip
    return tmp_path, overrides, local_service


def command(module, faults, place, *words):
    """The exit code and all output of a command against the service with `faults`."""
    folder, overrides, url = place
    with faulty_service.before(url, faults) as faulty:
        given = [*overrides, f"service.base_url={faulty.url}"] if module == "sft" else []
        done = subprocess.run(
            [sys.executable, "-m", module, *given, *words],
            cwd=folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, "TINKER_API_KEY": service.api_key(url)},
        )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("ahead", [1, 8])
def test_a_diverging_run_ends_with_a_sentence_and_no_traceback(place, ahead):
    code, output = command("sft", {}, place, "lr=1e30", "epochs=4", f"submit_ahead={ahead}")
    assert code == 1 and "diverged" in output
    assert "Traceback" not in output and "never retrieved" not in output


def test_a_failed_evaluation_is_a_sentence_and_no_traceback(place):
    code, output = command("sft", {"POST /api/v1/asample": 400}, place)
    assert code == 0 and "the evaluation 'nll' at step 0 failed" in output
    assert "Traceback" not in output and "never retrieved" not in output


def test_a_server_without_an_end_of_sessions_costs_no_word_and_no_answer(place):
    folder, overrides, url = place
    faults = {"POST /api/v1/sessions/.*/finish": 404}
    with faulty_service.before(url, faults) as faulty:
        environment = {**os.environ, "TINKER_API_KEY": service.api_key(url)}

        def do(*words):
            return subprocess.run(
                [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True,
                timeout=120, env=environment,
            )  # fmt: skip

        trained = do("sft", *overrides, f"service.base_url={faulty.url}", "run_dir=run")
        assert trained.returncode == 0, trained.stderr
        assert "Traceback" not in trained.stdout + trained.stderr
        said = do("sft.sample", "run", "Say red.", "--max-tokens", "4")
        assert said.returncode == 0 and said.stderr == "", said.stderr
        assert faulty.seen.total() == 2
        exported = do("sft.export", "run", "adapter")
        assert exported.returncode == 2
        assert "does not save external weights" in exported.stderr, exported.stderr
        long = do("sft.sample", "run", "red " * 600)
        assert long.returncode == 2 and "cannot sample" in long.stderr
        assert "Traceback" not in long.stderr


@pytest.mark.parametrize(
    "option", [("--temperature", "-1"), ("--max-tokens", "0"), ("--temperature", "nan")]
)
def test_numbers_that_nothing_can_sample_with_are_refused(capsys, option):
    from sft import sample

    assert sample.main(["run", "prompt", *option]) == 2
    assert f"{option[0]}: " in capsys.readouterr().err


def test_a_finished_run_says_nothing_of_failures(stub):
    make, _ = stub
    result = go(make())
    assert "failed_evaluations" not in json.loads((result.directory / "run.json").read_text())
