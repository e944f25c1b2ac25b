"""Records of checkpoints and the rules for when to save."""

from concurrent.futures import ThreadPoolExecutor

from sft.record.checkpoints import (
    Cadence,
    CheckpointFile,
    CheckpointRecord,
    best,
    read,
    replace_durably,
)


def record(name, step=1, nll=None, kind="periodic"):
    evaluation = None if nll is None else {"eval/nll": nll}
    return CheckpointRecord(name, step, 0, step, 10 * step, "s", "w", evaluation, kind=kind)


def test_records_survive_a_line_that_a_crash_cut_short(tmp_path):
    file = CheckpointFile(tmp_path / "checkpoints.jsonl")
    file.append(record("000001"))
    with (tmp_path / "checkpoints.jsonl").open("a") as torn:
        torn.write('{"name": "0000')
    assert [r.name for r in read(tmp_path / "checkpoints.jsonl")] == ["000001"]


def test_threads_that_replace_one_file_at_once_leave_it_whole_and_nothing_else(tmp_path):
    # As a resumed run does whose dead run the MLflow writer is still sending.
    file = tmp_path / "mlflow.json"
    texts = [f"{i}" * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            list(threads.map(lambda text: replace_durably(file, text), texts))
    assert file.read_text() in texts
    assert list(tmp_path.iterdir()) == [file]


def test_the_best_checkpoint_has_the_lowest_held_out_nll_and_the_first_wins_a_tie():
    records = [record("a", nll=2.0), record("b", nll=1.0), record("c", nll=1.0), record("d")]
    assert best(records).name == "b"
    assert best([record("a")]) is None


def test_cadence_saves_by_steps_and_by_tokens_and_rolls_in_between():
    cadence = Cadence(save_every=4, save_every_tokens=25, rolling_save_every=1)
    kinds = [cadence.due(step, tokens=10 * step) for step in range(1, 9)]
    # Tokens: 25 and more since the last save, at 30 (saved), then 40 by steps, 70, 80 by steps.
    assert kinds == [
        "rolling", "rolling", "periodic", "periodic", "rolling", "rolling", "periodic", "periodic"
    ]  # fmt: skip


def test_no_rule_saves_nothing():
    assert Cadence().due(step=100, tokens=10**9) is None
