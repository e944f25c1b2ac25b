"""What metrics are made of, example by example: the standard error, and the files of a run."""

import numpy as np
import pytest

from sft.record.examples import (
    Examples,
    ExamplesFolder,
    Unreadable,
    last_examples,
    standard_errors,
)


def of(*totals, weights=None, digest="d"):
    return Examples(list(totals), weights or [1.0] * len(totals), digest)


def test_the_standard_error_of_a_share_is_that_of_the_textbook():
    right = [1.0] * 30 + [0.0] * 70
    assert of(*right).standard_error() == pytest.approx(np.std(right, ddof=1) / 10)


def test_the_standard_error_of_nll_is_what_drawing_again_would_show():
    """Against the spread of the ratio over 4,000 held-out sets of 60 examples each."""
    generator = np.random.default_rng(0)
    weights = generator.integers(5, 200, size=(4000, 60)).astype(float)
    totals = weights * generator.gamma(4, 0.25, size=weights.shape)
    spread = (totals.sum(1) / weights.sum(1)).std()
    said = [Examples(t, w, "").standard_error() for t, w in zip(totals, weights, strict=True)]
    assert np.mean(said) == pytest.approx(spread, rel=0.05)


def test_one_example_has_no_standard_error():
    assert standard_errors({"eval/nll": of(2.0), "eval/bpb": of()}) == {}


@pytest.mark.parametrize(
    "alike",
    [of(0, 0, 0), of(1, 1, 1, 1), of(0.3, 0.3, 0.3), of(0.3, 0.6, weights=[1, 2]), of(0, 0)],
)
def test_examples_that_are_all_alike_are_no_certainty(alike):
    assert standard_errors({"eval/quiz/accuracy": alike}) == {}


def test_what_is_kept_comes_back_as_it_was(tmp_path):
    folder = ExamplesFolder(tmp_path)
    nll, right = of(10.5, 20.25, weights=[7.0, 9.0]), of(1.0, 0.0, 1.0, digest="e")
    folder.add(4, {"eval/nll": nll}, list)
    folder.add(4, {"eval/quiz/accuracy": right}, list)
    found = folder.read(4)
    assert list(found) == ["eval/nll", "eval/quiz/accuracy"]
    assert found["eval/nll"].value == nll.value and found["eval/nll"].digest == "d"
    assert list(found["eval/quiz/accuracy"].totals) == [1, 0, 1]
    assert folder.read(5) == {}


def test_the_first_the_last_and_the_best_are_kept(tmp_path):
    folder = ExamplesFolder(tmp_path)
    for step, best in ((0, 0), (5, 5), (10, 5), (15, 5), (20, 5)):
        folder.add(step, {"eval/nll": of(1.0, 2.0)}, lambda best=best: [best])
    assert folder.steps() == [0, 5, 20]


def test_a_run_that_resumes_forgets_what_it_measured_beyond(tmp_path):
    folder = ExamplesFolder(tmp_path)
    for step in (0, 10, 20):
        folder.add(step, {"eval/nll": of(1.0, 2.0)}, lambda: [10])
    folder.truncate(10)
    assert folder.steps() == [0, 10]


def test_examples_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="2 totals and 1 weights"):
        Examples([1.0, 2.0], [1.0], "d")
    with pytest.raises(TypeError, match="the digest is bytes"):
        Examples([1.0], [1.0], b"d")


def truncated(file):
    file.write_bytes(file.read_bytes()[:200])


def emptied(file):
    file.write_bytes(b"")


def foreign(file):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"metric": ["eval/nll"], "value": [1.0]}), file)


def of_text(file):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"metric": ["eval/nll"], "total": ["a"], "weight": ["b"]}
    table = pa.table(columns).replace_schema_metadata({"digests": '{"eval/nll": "d"}'})
    pq.write_table(table, file)


def a_list_of_digests(file):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(file).replace_schema_metadata({"digests": '["d"]'}), file)


def a_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = [truncated, emptied, foreign, of_text, a_list_of_digests, a_folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_read_is_named_and_costs_its_own_metrics_alone(tmp_path, damage):
    folder = ExamplesFolder(tmp_path)
    folder.add(3, {"eval/nll": of(1.0, 2.0), "eval/quiz/accuracy": of(1.0, 0.0)}, list)
    folder.add(6, {"eval/nll": of(1.0, 3.0)}, list)
    rows = [{"step": 3, "eval/nll": 1.5, "eval/quiz/accuracy": 0.5}, {"step": 6, "eval/nll": 2.0}]
    damage(tmp_path / "examples" / "000006.parquet")
    with pytest.raises(Unreadable, match="examples/000006.parquet"):
        folder.read(6)
    kept = last_examples(tmp_path, rows)
    assert kept.unreadable["eval/nll"] == "examples/000006.parquet"
    assert list(kept.examples) == ["eval/quiz/accuracy"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_an_evaluation_that_is_not_the_last_is_not_read(tmp_path, damage):
    folder = ExamplesFolder(tmp_path)
    for step in (0, 6):
        folder.add(step, {"eval/nll": of(1.0, 2.0)}, list)
    damage(tmp_path / "examples" / "000000.parquet")
    rows = [{"step": 0, "eval/nll": 1.5}, {"step": 6, "eval/nll": 1.5}]
    kept = last_examples(tmp_path, rows)
    assert list(kept.examples) == ["eval/nll"] and kept.unreadable == {}
