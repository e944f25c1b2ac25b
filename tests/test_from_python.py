"""`train.main`, as scripts and notebooks call it: shown, logged and found as a command's run is."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from sft import reproduce, sample, train
from sft.datasets import FromConversationFileBuilder
from sft.errors import BadInput
from sft.hooks import BaseHook
from sft.past.find import find
from sft.record import checkpoints
from sft.tracking.store import open_client
from sft.types import ChatDatasetBuilderCommonConfig
from tests.chat_data import write_chats


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    write_chats(tmp_path / "chats.jsonl")
    return tmp_path


@pytest.fixture
def make_config(tiny_model, place):
    def make(**changes):
        common = ChatDatasetBuilderCommonConfig(
            model_name_for_tokenizer=str(tiny_model),
            renderer_name=None, batch_size=4, max_length=128,
        )  # fmt: skip
        builder = FromConversationFileBuilder(common_config=common, path="chats.jsonl", eval_size=4)
        fields = {"learning_rate": 1e-2, "lora_rank": 4, "max_steps": 4, "held_out_answers": 0}
        fields["model_name"] = str(tiny_model)
        return train.Config(
            log_path="outputs/mine", dataset_builder=builder,
            **(fields | changes),
        )  # fmt: skip

    return make


def test_a_run_is_shown_logged_and_found_by_the_commands(make_config, capsys):
    result = asyncio.run(train.main(make_config(), service="local"))
    assert result.status == "FINISHED"
    shown = capsys.readouterr().out
    assert "step 4/4" in shown and "sft.chat outputs/mine" in shown
    found = find("mine")
    run = open_client(found.uri).get_run(found.run_id)
    assert run.info.run_name == "mine" and run.data.metrics["train/nll"] > 0
    assert sample.main(["mine", "What is red?", "--max-tokens", "4"]) == 0
    assert reproduce.main(["mine"]) == 0
    assert "agrees" in capsys.readouterr().out


def test_a_run_whose_builder_lives_in_a_script_can_be_talked_to(make_config, capsys):
    @dataclass
    class Mine(FromConversationFileBuilder):
        pass

    config = make_config()
    config.dataset_builder = Mine(
        common_config=config.dataset_builder.common_config, path="chats.jsonl"
    )
    asyncio.run(train.main(config, service="local", show=False))
    assert "not importable" in Path("outputs/mine/config.yaml").read_text()
    assert sample.main(["mine", "What is red?", "--max-tokens", "4"]) == 0
    assert reproduce.main(["mine"]) == 2


def test_told_not_to_it_prints_nothing_and_logs_nowhere(make_config, local_service, capsys):
    config = make_config(model_name="tiny")
    result = asyncio.run(train.main(config, service=local_service, show=False, track=False))
    assert result.status == "FINISHED" and capsys.readouterr().out == ""
    assert not Path("mlflow.db").exists()
    facts = json.loads(Path("outputs/mine/run.json").read_text())
    assert facts["status"] == "FINISHED" and "server" in facts  # what another server does was asked


def test_it_logs_to_the_trackers_that_are_named(make_config, local_service):
    config = make_config(model_name="tiny")
    where = {"mlflow": {"uri": "sqlite:///own.db", "experiment": "python"}}
    result = asyncio.run(train.main(config, service=local_service, show=False, track=where))
    assert result.status == "FINISHED" and not Path("mlflow.db").exists()
    client = open_client("sqlite:///own.db")
    [run] = client.search_runs([client.get_experiment_by_name("python").experiment_id])
    assert run.info.run_name == "mine" and find("mine").run_id == run.info.run_id


@pytest.mark.parametrize(
    "track, sentence",
    [
        (["mlflow", "wandbb"], "tracking.also.wandbb: there is no such tracker.*mean 'wandb'"),
        ({"mlflow": {"url": "sqlite:///own.db"}}, "tracking.url"),
        ("tensorboards", "did you mean 'tensorboard'"),
    ],
)
def test_a_tracker_that_is_none_is_refused(make_config, track, sentence):
    with pytest.raises(BadInput, match=sentence):
        asyncio.run(train.main(make_config(), service="local", track=track))
    assert not Path("outputs").exists()


def test_who_is_cancelled_saves_a_checkpoint_first(make_config, local_service):
    class CancelAtStep(BaseHook):
        def on_start(self, run):
            self.loop = asyncio.get_running_loop()

        def on_progress(self, step, metrics):
            if step == 2:
                self.loop.call_soon_threadsafe(self.task.cancel)

    async def cancelled():
        hook = CancelAtStep()
        config = make_config(model_name="tiny", max_steps=None, num_epochs=500)
        hook.task = asyncio.create_task(
            train.main(config, service=local_service, show=False, track=False, hooks=[hook])
        )
        await hook.task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    facts = json.loads(Path("outputs/mine/run.json").read_text())
    last = checkpoints.read(Path("outputs/mine/checkpoints.jsonl"))[-1]
    assert facts["status"] == "KILLED" and last.step == facts["steps"] > 2


@pytest.mark.parametrize(
    "service, base_url, sentence",
    [
        ("here", None, "expected 'local', 'tinker' or the URL of a server"),
        ("local", "http://127.0.0.1:1", "the config has a base_url"),
    ],
)
def test_a_service_that_is_none_is_refused(make_config, service, base_url, sentence):
    with pytest.raises(BadInput, match=sentence):
        asyncio.run(train.main(make_config(base_url=base_url), service=service))
    assert not Path("outputs").exists()
