"""metrics.jsonl and the arithmetic behind it."""

import math

import pytest

from sft.record.metrics import MetricsFile, Nats, nats, read, summarize


def test_an_evaluation_that_arrives_late_joins_its_row_and_keeps_its_timestamp(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    stamps = [file.merge(step, {"train/nll": float(step)}) for step in range(3)]
    assert file.merge(1, {"eval/nll": 0.5}) == stamps[1]
    file.merge(3, {"train/nll": 3.0})
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[1] == {"step": 1, "timestamp": stamps[1], "train/nll": 1.0, "eval/nll": 0.5}


def test_an_evaluation_may_come_before_the_training_of_its_step(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.merge(0, {"eval/nll": 2.0})
    file.merge(0, {"train/nll": 3.0})
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [0]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint_but_keeps_its_evaluation(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(5):
        file.merge(step, {"train/nll": float(step), "eval/nll": float(step)})
    file.truncate(3)
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert "train/nll" not in rows[3] and rows[3]["eval/nll"] == 3.0
    file.merge(3, {"train/nll": 9.0})
    assert read(tmp_path / "metrics.jsonl")[3]["train/nll"] == 9.0


def test_a_line_cut_short_by_a_crash_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "timestamp": 1, "train/nll": 1.0}\n{"step": 1, "ti')
    assert [row["step"] for row in read(path)] == [0]
    file = MetricsFile(path)
    file.truncate(1)
    file.merge(1, {"train/nll": 2.0})
    assert [row["step"] for row in read(path)] == [0, 1]


def datum(targets, weights):
    from types import SimpleNamespace

    import tinker

    data = [
        tinker.TensorData(data=targets, dtype="int64", shape=[len(targets)]),
        tinker.TensorData(data=weights, dtype="float32", shape=[len(weights)]),
    ]
    return SimpleNamespace(
        loss_fn_inputs=dict(zip(("target_tokens", "weights"), data, strict=True))
    )


def test_nll_counts_tokens_with_weight_above_zero_whatever_the_weight():
    found = nats(datum([1, 2, 3, 4], [0.5, 0.0, 2.0, -1.0]), [-1.0, -2.0, -4.0, -8.0])
    assert found == Nats(total=5.0, text=5.0, tokens=2)


def test_special_tokens_count_for_nll_and_not_for_bits_per_byte():
    found = nats(datum([7, 9, 9], [1.0, 1.0, 0.0]), [-2.0, -4.0, -8.0], frozenset({9}))
    assert found == Nats(total=6.0, text=2.0, tokens=2)
    measured = summarize(found, 3, "train")
    assert measured == pytest.approx({"train/nll": 3.0, "train/bpb": 2.0 / math.log(2) / 3})


def test_bits_per_byte_divide_by_the_bytes_of_the_trained_text():
    nats_ = math.log(2) * 6
    assert summarize(Nats(nats_, nats_, 2), 3, "eval") == pytest.approx(
        {"eval/nll": math.log(2) * 3, "eval/bpb": 2.0}
    )
    assert "eval/bpb" not in summarize(Nats(1.0, 1.0, 1), None, "eval")
