"""What a command prints of a run that fails: sentences, and no traceback of any thread."""

import os
import subprocess
import sys

import pytest

from sft.service import child
from tests import faulty_service
from tests.test_train import TINY_MODEL, chats  # noqa: F401 - a fixture


@pytest.fixture
def place(tmp_path, tiny_model, local_service, chats):  # noqa: F811
    overrides = [
        "dataset=jsonl", f"dataset.path={chats}", "dataset.eval_size=4", "batch_size=4",
        "model=folder", f"model.name={TINY_MODEL}", f"model.tokenizer={tiny_model}",
        "max_length=128", "lora.rank=4", "tracking=none", "evaluators=none", "service=custom",
    ]  # fmt: skip
    return tmp_path, overrides, local_service


def command(module, faults, place, *words):
    """The exit code and all output of a command against the service with `faults`, which begin
    once the command has asked what the service can do."""
    folder, overrides, url = place
    with faulty_service.before(url, faults, passing=1) as faulty:
        given = [*overrides, f"service.base_url={faulty.url}"] if module == "sft" else []
        done = subprocess.run(
            [sys.executable, "-m", module, *given, *words],
            cwd=folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, "TINKER_API_KEY": child.api_key(url)},
        )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_failed_start_is_printed_and_recorded_in_mlflow(place):
    faults = {"POST /api/v1/create_model": 422}
    code, output = command("sft", faults, place, "tracking.uri=sqlite:///mlflow.db")
    assert code == 1 and "FAILED after 0 steps" in output and "for the test" in output
    assert "Traceback" not in output
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place[0]}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("sft").experiment_id])
    assert found.info.status == "FAILED" and "for the test" in found.data.tags["sft.error"]


@pytest.mark.parametrize("ahead", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_diverging_run_ends_with_a_sentence_and_no_traceback(place, ahead):
    code, output = command("sft", {}, place, "lr=1e30", "epochs=4", f"submit_ahead={ahead}")
    assert code == 1 and "diverged" in output
    assert "Traceback" not in output and "never retrieved" not in output


@pytest.mark.slow
def test_a_failed_evaluation_is_a_sentence_and_no_traceback(place):
    code, output = command("sft", {"POST /api/v1/asample": 400}, place)
    assert code == 0 and "the evaluation 'nll' at step 0 failed" in output
    assert "Traceback" not in output and "never retrieved" not in output


@pytest.mark.slow
def test_a_server_without_an_end_of_sessions_costs_no_word_and_no_answer(place):
    folder, overrides, url = place
    faults = {"POST /api/v1/sessions/.*/finish": 404}
    with faulty_service.before(url, faults) as faulty:
        environment = {**os.environ, "TINKER_API_KEY": child.api_key(url)}

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
        assert faulty.seen.total() == 4  # that of each command, and that in which it has asked
        exported = do("sft.export", "run", "adapter")
        assert exported.returncode == 0 and exported.stderr == "", exported.stderr
        faulty.faults["POST /api/v1/save_weights_external"] = 422
        faulty.faults["GET .*/archive"] = 404
        refused = do("sft.export", "run", "other")
        assert refused.returncode == 2
        assert "the service does not hand out tinker://" in refused.stderr, refused.stderr
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
