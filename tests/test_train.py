"""The training loop against the real local service: what it writes, and what it survives."""

import asyncio
import math
import time

import pytest

from sft import train
from sft.errors import BadInput
from sft.hooks import BaseHook
from sft.record import checkpoints, metrics, rundir
from sft.run import batches, training
from sft.run.client import Connection, Service
from tests.chat_data import write_chats

TINY_MODEL = "tiny"


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.fixture
def make_config(chats, tiny_model, local_service, tmp_path):
    from sft.datasets import FromConversationFileBuilder
    from sft.types import ChatDatasetBuilderCommonConfig

    def make(name="run", **changes):
        builder = FromConversationFileBuilder(
            common_config=ChatDatasetBuilderCommonConfig(
                model_name_for_tokenizer=str(tiny_model),
                renderer_name=None,
                batch_size=4,
                max_length=128,
            ),
            path=str(chats),
            eval_size=4,
        )
        fields = dict(
            log_path=str(tmp_path / name),
            model_name=TINY_MODEL,
            dataset_builder=builder,
            learning_rate=1e-2,
            lora_rank=4,
            held_out_answers=0,
            base_url=local_service,
        )
        return train.Config(**(fields | changes))

    return make


def run(config, **options):
    return asyncio.run(training.train(config, **options))


def rows(config):
    from pathlib import Path

    return metrics.read(Path(config.log_path) / "metrics.jsonl")


def comparable(config):
    """The rows without what the clock says."""
    clock = ("timestamp", "time/step", "tokens/per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows(config)]


def test_a_run_lowers_the_loss_and_writes_each_step_once(make_config):
    config = make_config(num_epochs=2, eval_every=4, save_every=4)
    result = run(config)
    assert result.status == "FINISHED", result.error
    assert [row["step"] for row in rows(config)] == list(range(11))
    assert [s for s in range(11) if "eval/nll" in rows(config)[s]] == [0, 4, 8, 10]
    assert result.last["train/nll"] < result.first["train/nll"] - 0.3
    assert result.last["eval/nll"] < result.first["eval/nll"] - 0.3
    assert [record.name for record in result.checkpoints] == ["000004", "000008", "final"]
    assert result.best is min(result.checkpoints, key=lambda r: r.evaluation["eval/nll"])


def test_what_the_service_measures_of_a_step_is_logged_under_train(make_config):
    config = make_config(eval_every=0)
    run(config)
    steps = [row for row in rows(config) if "train/nll" in row]
    assert all(row["train/grad_norm"] > 0 and row["train/loss:sum"] > 0 for row in steps)


def test_the_same_run_twice_gives_the_same_numbers(make_config):
    first, second = make_config("first", eval_every=2), make_config("second", eval_every=2)
    run(first)
    run(second)
    assert comparable(first) == comparable(second)


def test_pipelining_changes_no_number(make_config):
    configs = [make_config(f"ahead{ahead}", submit_ahead=ahead, eval_every=2) for ahead in (0, 3)]
    for config in configs:
        run(config)
    assert comparable(configs[0]) == comparable(configs[1])


def test_an_evaluation_at_a_step_measures_the_weights_with_that_many_updates(make_config):
    """Held-out NLL at step s equals a forward pass of the same sequences on checkpoint s."""
    config = make_config(eval_every=2, save_every=2)
    run(config)
    _, held_out = config.dataset_builder()
    data = [d for i in range(len(held_out)) for d in held_out.get_batch(i)]
    records = checkpoints.read(_path(config) / "checkpoints.jsonl")
    assert [record.step for record in records] == [2, 4, 5]

    async def forward(record):
        connection = await Connection.open(await Service.reach(config.base_url))
        client = await connection.resume(record.state_path, {})
        output = await client.forward(data, "cross_entropy")
        await connection.close("success")
        return metrics.training_metrics(output, data, None)["train/nll"]

    for record in records:
        expected = asyncio.run(forward(record))
        assert record.evaluation["eval/nll"] == pytest.approx(expected, abs=1e-4)


def test_bits_per_byte_leave_special_tokens_out_above_and_below_the_line(make_config):
    """As the service's own log-probabilities say: a token that is not special is a byte here."""
    config = make_config(max_steps=1)
    result = run(config)
    train_data, held_out = config.dataset_builder()
    train_data.set_epoch(batches.epoch_seed(config.seed, 0))
    special = config.dataset_builder.tokenizer.all_special_ids

    async def expected(data, checkpoint):
        connection = await Connection.open(await Service.reach(config.base_url))
        client = await (
            connection.resume(checkpoint, {}) if checkpoint else connection.create(config, {})
        )
        output = await client.forward(data, "cross_entropy")
        await connection.close("success")
        nats, num_bytes = 0.0, 0
        for datum, answer in zip(data, output.loss_fn_outputs, strict=True):
            targets, weights = (
                datum.loss_fn_inputs[name].to_numpy() for name in ("target_tokens", "weights")
            )
            for target, weight, logprob in zip(
                targets, weights, answer["logprobs"].to_numpy(), strict=True
            ):
                if weight > 0 and target not in special:
                    nats, num_bytes = nats - float(logprob), num_bytes + 1
        return nats / math.log(2) / num_bytes

    evaluated = [d for i in range(len(held_out)) for d in held_out.get_batch(i)]
    after = asyncio.run(expected(evaluated, result.checkpoints[-1].state_path))
    assert result.last["eval/bpb"] == pytest.approx(after, abs=1e-4)
    before = asyncio.run(expected(train_data.get_batch(0), None))
    assert result.first["train/bpb"] == pytest.approx(before, abs=1e-4)


def test_a_run_stopped_between_steps_resumes_as_if_nothing_had_happened(make_config):
    whole, parts = make_config("whole", eval_every=2), make_config("parts", eval_every=2)
    run(whole)

    class StopAt(BaseHook):
        def on_start(self, run):
            self.run = run

        def on_progress(self, step, values):
            if step == 1:
                self.run.stop("for the test", "KILLED")

    stopped = run(parts, hooks=[StopAt()])
    assert stopped.status == "KILLED" and 2 <= stopped.steps < 5
    assert [record.kind for record in stopped.checkpoints] == ["interrupted"]
    facts = rundir.read_facts(_path(parts))
    assert facts["reason"] == "for the test" and facts["steps"] == stopped.steps
    during = []

    class Look(BaseHook):
        def on_start(self, run):
            during.append(rundir.read_facts(run.directory))

    resumed = run(parts, hooks=[Look()])
    assert resumed.status == "FINISHED", resumed.error
    assert comparable(parts) == comparable(whole)
    assert during[0]["reason"] is None and not {"steps", "last", "best"} & during[0].keys()
    facts = rundir.read_facts(_path(parts))
    assert facts["reason"] is None and facts["steps"] == 5
    assert facts["seconds"] == pytest.approx(stopped.seconds + resumed.seconds)
    digests = [
        [row["digest"] for row in metrics.read(_path(config) / "batches.jsonl")]
        for config in (parts, whole)
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 5


def test_a_run_that_died_before_its_last_evaluation_makes_it_when_resumed(make_config):
    config = make_config()
    whole = run(config)
    file = _path(config) / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert "eval/nll" in lines[-1]
    file.write_text("".join(lines[:-1]))
    resumed = run(config)
    assert resumed.status == "FINISHED", resumed.error
    assert resumed.last["eval/nll"] == whole.last["eval/nll"]
    assert resumed.best.evaluation == whole.best.evaluation


def test_a_loss_that_is_not_finite_ends_the_run_without_a_checkpoint_of_it(make_config):
    result = run(make_config(learning_rate=1e30, num_epochs=4))
    assert result.status == "FAILED" and result.diverged, result.error
    assert "train/nll" in result.error and result.steps < 20
    assert all(math.isfinite(v) for r in result.checkpoints for v in (r.evaluation or {}).values())


def test_a_loss_far_above_where_it_began_ends_the_run(make_config):
    result = run(make_config(learning_rate=1.0, lr_schedule="constant", num_epochs=20))
    assert result.status == "FAILED" and "rose from" in result.error


def test_early_stopping_ends_a_run_that_no_longer_improves(make_config):
    config = make_config(
        learning_rate=1e-12, num_epochs=10, eval_every=1, early_stopping_patience=2
    )
    result = run(config)
    assert result.status == "FINISHED" and result.steps < 50
    assert "early stopping" in result.reason
    assert result.checkpoints[-1].kind == "final"


def test_rolling_checkpoints_replace_each_other_and_keep_bounds_the_periodic_ones(make_config):
    config = make_config(rolling_save_every=1, save_every=2, keep_checkpoints=1, num_epochs=2)
    result = run(config)
    assert result.status == "FINISHED", result.error
    kinds = [(record.kind, record.step) for record in result.checkpoints]
    assert ("final", 10) in kinds
    assert sum(kind == "periodic" for kind, _ in kinds) <= 2
    assert sum(kind == "rolling" for kind, _ in kinds) == 0

    async def there(record):
        api = await Service.reach(config.base_url)
        return await api.weights_info(record.state_path) is not None

    assert all(asyncio.run(there(record)) for record in result.checkpoints)


def test_checkpoints_are_recorded_in_their_order_however_long_the_disk_takes(
    make_config, monkeypatch
):
    sync, durations = metrics.MetricsFile.sync, iter([0.5, 0.3, 0.1])

    def slow_at_first(file):
        time.sleep(next(durations, 0))
        sync(file)

    monkeypatch.setattr(metrics.MetricsFile, "sync", slow_at_first)
    result = run(make_config(save_every=1, submit_ahead=4))
    assert [record.step for record in result.checkpoints] == [1, 2, 3, 4, 5]
    assert result.checkpoints[-1].kind == "final"


def test_a_new_run_starts_from_the_weights_of_a_checkpoint(make_config):
    first = run(make_config("first", num_epochs=2))
    path = first.checkpoints[-1].state_path
    second = run(make_config("second", load_checkpoint_path=path))
    assert second.first["eval/nll"] == pytest.approx(first.last["eval/nll"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_name": "tyni"}, "model.name: .*does not train 'tyni'.*did you mean 'tiny'"),
        ({"base_url": "http://127.0.0.1:9"}, "nothing answers at http://127.0.0.1:9"),
        ({"optimizer": "dimuon"}, "dimuon"),
        (
            {"load_checkpoint_path": "tinker://no/weights/such"},
            "checkpoint.load: the service at .* has no checkpoint tinker://no",
        ),
    ],
)
def test_what_the_service_cannot_do_is_said_before_anything_is_made(make_config, changes, words):
    config = make_config(**changes)
    with pytest.raises(BadInput, match=words):
        run(config)
    assert not _path(config).exists()


def test_sequences_longer_than_the_models_context_are_refused(make_config):
    config = make_config()
    config.dataset_builder.common_config.max_length = 513
    with pytest.raises(BadInput, match="max_length: 513 tokens do not fit 'tiny'.*512"):
        run(config)


def test_many_runs_live_in_one_process_and_one_failure_is_its_own(make_config):
    class Raise(BaseHook):
        def on_progress(self, step, values):
            raise RuntimeError("for the test")

    configs = [make_config(f"run{i}", learning_rate=10.0**-i) for i in (2, 3, 4)]

    async def together():
        hooks = [[], [Raise()], []]
        return await asyncio.gather(
            *(training.train(c, hooks=h) for c, h in zip(configs, hooks, strict=True))
        )

    results = asyncio.run(together())
    assert [result.status for result in results] == ["FINISHED", "FAILED", "FINISHED"]
    assert results[1].error == "RuntimeError: for the test"
    alone = make_config("alone", learning_rate=1e-2)
    run(alone)
    assert comparable(alone) == comparable(configs[0])


def test_held_out_answers_are_sampled_before_and_after(make_config):
    result = run(make_config(held_out_answers=2, held_out_answer_tokens=20))
    assert set(result.tables) == {"answers", "answers@start"}
    assert [set(row) for row in result.tables["answers"]] == 2 * [
        {"prompt", "answer", "stop_reason", "reference", "exact_match"}
    ]
    assert "Say" in result.tables["answers"][0]["prompt"]


def _path(config):
    from pathlib import Path

    return Path(config.log_path)


def test_a_builder_that_cannot_be_imported_again_is_said_at_the_start(make_config):
    from sft.datasets import FromConversationFileBuilder

    class Local(FromConversationFileBuilder):
        pass

    config = make_config()
    fields = vars(config.dataset_builder)
    config.dataset_builder = Local(**fields)
    told = []

    class Listen(BaseHook):
        def on_message(self, text):
            told.append(text)

    assert run(config, hooks=[Listen()]).status == "FINISHED"
    assert any("cannot be reproduced" in text for text in told)
