"""Runs on mixtures: what is measured, resumed, swept and compared."""

import json
import math

import pytest

from sft.config.saved import dataset_builder, to_train
from sft.data.mixing.held_out import built
from sft.errors import BadInput
from tests.data.mixing.parts import stream
from tests.test_train import write_chats


@pytest.fixture
def train_mix(settings, local_service, tmp_path):
    """Trains a mixture on the tests' service; the config and the result."""
    import asyncio

    from sft.run import training

    def run(name, *words, hooks=(), **changes):
        import dataclasses

        made = settings(
            "dataset.parts.math.eval_size=2", "dataset.parts.code.eval_size=4", "lr=1e-2",
            "lora.rank=4", "evaluators.held_out_answers=0", *words,
        )  # fmt: skip
        config = to_train(made, str(tmp_path / name), local_service)
        config = dataclasses.replace(config, model_name="tiny", **changes)
        return config, asyncio.run(training.train(config, hooks=hooks))

    return run


def test_nll_of_the_parts_averages_to_that_of_the_whole_in_one_pass(train_mix, monkeypatch):
    import tinker

    passes = []
    compute = tinker.SamplingClient.compute_logprobs

    def counted(client, *args, **more):
        passes.append(1)
        return compute(client, *args, **more)

    monkeypatch.setattr(tinker.SamplingClient, "compute_logprobs", counted)
    config, result = train_mix("run")
    assert result.status == "FINISHED", result.error
    held_out = built(config.dataset_builder).held_out
    tokens = {name: part.statistics.trained_tokens for name, part in held_out.parts.items()}
    sizes = {name: part.statistics.trained_bytes for name, part in held_out.parts.items()}
    assert len(passes) == 2 * 6  # before and after, each sequence once
    for row in (result.first, result.last):
        for metric, weights in (("nll", tokens), ("bpb", sizes)):
            mean = sum(row[f"eval/{name}/{metric}"] * weights[name] for name in weights)
            assert row[f"eval/{metric}"] == pytest.approx(mean / sum(weights.values()))
        assert math.isfinite(row["train/bpb"])
    assert result.last["eval/nll"] < result.first["eval/nll"]


def test_a_run_resumed_in_the_middle_of_a_mixture_trains_the_same_batches(train_mix, chat):
    from pathlib import Path

    from sft.hooks import BaseHook
    from sft.record import metrics

    class StopAt(BaseHook):
        def on_start(self, run):
            self.run = run

        def on_progress(self, step, values):
            if step == 3:
                self.run.stop("for the test", "KILLED")

    words = stream("epochs=2", "eval_every=4")
    whole, done = train_mix("whole", *words)
    parts, stopped = train_mix("parts", *words, hooks=[StopAt()])
    assert stopped.status == "KILLED" and 4 <= stopped.steps < done.steps
    parts, resumed = train_mix("parts", *words)
    assert resumed.status == "FINISHED", resumed.error
    batches = [
        [row["digest"] for row in metrics.read(Path(config.log_path) / "batches.jsonl")]
        for config in (whole, parts)
    ]
    assert batches[0] == batches[1] and len(set(batches[0])) == done.steps
    assert resumed.last["eval/math/nll"] == done.last["eval/math/nll"]


def test_what_a_run_read_of_a_stream_is_in_its_record_at_the_end(train_mix, chat):
    from pathlib import Path

    lines = chat.read_text().splitlines()
    chat.write_text("\n".join([*lines, '{"messages": []}', ""]))
    config, done = train_mix("streamed", *stream())
    assert done.status == "FINISHED", done.error
    rows = json.loads((Path(config.log_path) / "run.json").read_text())["rows"]
    left = rows["left_out"]["chat: no message"]
    assert left["count"] >= 1 and left["first"].endswith("chat.jsonl line 13: holds no message")
    assert "a mixture of" in rows["found"]
    assert "data, as far as it was read: " in (Path(config.log_path) / "run.log").read_text()


def test_a_run_is_not_resumed_with_other_weights(train_mix):
    with_hook = train_mix("run", "max_steps=2")
    assert with_hook[1].status == "FINISHED"
    with pytest.raises(BadInput, match=r"run_dir: .*different|other"):
        train_mix("run", "max_steps=2", "dataset.parts.math.weight=2")


def test_weights_are_swept(files, tiny_model, local_service, monkeypatch, tmp_path):
    import sys

    from sft.__main__ import main
    from tests.sweeps.conftest import rows_of, study_of

    paths = [f"dataset.parts.{name}.path={path.name}" for name, path in files.items()]
    argv = [
        "--multirun", "model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}", *paths,
        "dataset.parts.math.eval_size=2", "dataset.parts.code.eval_size=4", "batch_size=4",
        "max_length=128", "max_steps=2", "evaluators.held_out_answers=0", "service=custom",
        f"service.base_url={local_service}", "tracking.uri=null",
        "dataset.parts.math.weight=interval(0,1)", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.study_name=weights", "hydra.sweeper.metric=eval/math/nll",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sft", *argv])
    assert main(argv) == 0
    trials = study_of("weights").trials
    weights = [trial.params["dataset.parts.math.weight"] for trial in trials]
    assert len(set(weights)) == 2 and all(0 <= w <= 1 and w != int(w) for w in weights)
    for trial in trials:
        rows = rows_of("weights", trial.number)
        assert rows[-1]["eval/math/nll"] == trial.value


def test_runs_of_mixtures_are_compared_and_listed_by_their_parts(train_mix, monkeypatch, capsys):
    from sft import compare

    train_mix("one", "max_steps=2")
    train_mix("two", "max_steps=2", "dataset.parts.math.weight=2")
    capsys.readouterr()
    assert compare.main(["one", "two"]) == 0
    said = capsys.readouterr().out
    assert "dataset.parts.math.weight" in said and "eval/math/nll last" in said


def test_chats_without_a_held_out_part_leave_eval_nll_out(settings, tmp_path):
    write_chats(tmp_path / "more.jsonl")
    found = built(dataset_builder(settings("dataset.parts.more.path=more.jsonl")))
    assert found.held_out is None
