"""What a study says: best trial, smallest rank, savings, figures and one page."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sft.errors import BadInput
from sft.record.checkpoints import CheckpointRecord
from sft.record.examples import Examples, ExamplesFolder
from sft.sweeps import report
from sft.sweeps.findings.results import Results
from sft.sweeps.space import parse
from sft.sweeps.study import storage

SPACE = parse(["lr=1e-4,1e-3,3e-3", "lora.rank=4,16,64"])
# (lr, rank) -> final NLL
VALUES = {
    (1e-4, 4): 0.60, (1e-4, 16): 0.55, (1e-3, 4): 0.5105, (1e-3, 16): 0.5015, (1e-3, 64): 0.5,
}  # fmt: skip


@pytest.fixture
def study(tmp_path):
    study = storage.open_study("s", storage.open_storage(None, tmp_path / "s"), ["minimize"])
    storage.remember(study, {"metric": ["eval/nll"], "space": SPACE.describe(), "steps": 20})
    study.set_user_attr("train_price", 2.0)
    for (rate, rank), value in VALUES.items():
        add(study, rate, rank, value)
    add(study, 1e-4, 64, None, TrialState.PRUNED, tokens=400, curve={0: 2.0, 5: 1.0})
    add(study, 3e-3, 64, None, TrialState.PRUNED, tokens=100, diverged=True,
        error="diverged: train/nll is nan at step 2")  # fmt: skip
    add(study, 3e-3, 4, None, TrialState.FAIL, tokens=0, error="RuntimeError: boom")
    return study


def add(study, rate, rank, value, state=TrialState.COMPLETE, tokens=1000, curve=None, **attrs):
    study.enqueue_trial({"lr": rate, "lora.rank": rank})
    trial = study.ask(SPACE.distributions)
    final = {20: value} if value is not None else {}
    for step, at in (curve or {0: 2.0, 10: 1.0} | final).items():
        trial.report(at, step)
    attrs |= {"tokens": tokens, "seconds": 60.0, "steps": 20, "usd": 2.0 * tokens / 1e6}
    attrs.setdefault("command", ["model=qwen3"])
    repeats = len(attrs["values"][0]) if "values" in attrs else 1
    attrs["runs"] = [
        {"seed": r, "lora.seed": r, "sampler": f"tinker://r/{trial.number}-{r}"}
        for r in range(repeats)
    ]
    for name, known in attrs.items():
        trial.set_user_attr(name, known)
    study.tell(trial, value, state=state)


def test_the_answer_names_best_trial_checkpoint_command_and_smallest_good_rank(study):
    said = "\n".join(report.answer(Results.of(study)))
    assert "best trial: 4, eval/nll 0.5000 with lr=0.001, lora.rank=64" in said
    assert "checkpoint:  tinker://r/4-0" in said
    assert "python -m sft model=qwen3 lr=0.001 lora.rank=64" in said
    assert "rank 16: 0.0015 behind rank 64: one run each, the data cannot tell" in said
    assert "one run each: the data cannot tell whether its eval/nll is better" in said
    assert "as good" not in said and "cannot be told from" not in said
    assert "trial 6: diverged (diverged: train/nll is nan at step 2)" in said
    assert "trial 7: failed (RuntimeError: boom)" in said
    assert "5,500 tokens" in said and "cost $0.0110" in said
    assert "1,500 tokens spared" in said


def test_the_table_has_the_best_trial_first_and_every_trial_once(study):
    header, rows = report.table(Results.of(study))
    assert header[:4] == ["trial", "lr", "lora.rank", "eval/nll"]
    assert rows[0][:4] == ["4", "0.001", "64", "0.5000"]
    assert sorted(int(row[0]) for row in rows) == list(range(8))
    assert {row[-1] for row in rows} == {"complete", "pruned", "diverged", "failed"}


def test_figures_and_a_page_that_needs_nothing_else_lie_beside_the_study(study, tmp_path):
    (folder,), lines = report.write(study, tmp_path / "s")
    images = sorted(path.stem for path in folder.glob("*.png"))
    assert images == [
        "cost", "learning_curves", "learning_rate", "parallel_coordinates", "tokens_saved",
    ]  # fmt: skip
    page = (folder / "report.html").read_text()
    shown = re.findall(r'<img alt="(\w+)" src="data:image/png;base64,', page)
    assert sorted(shown) == images
    assert not re.search(r"""<(script|img|link)[^>]* (src|href)=["']?https?:""", page)
    assert "With the values under the pointer" in page and "Plotly.newPlot" in page
    assert '"trial 4, lr 0.001, lora.rank 64, eval\\u002fnll 0.5"' in page
    assert "the data cannot tell" in page
    assert "importance of the parameters: not split among lr, lora.rank" in page
    assert lines[0] in page


@pytest.fixture
def kept(tmp_path):
    """A study of three ranks whose runs keep what eval/nll is made of: 60 sequences."""
    study = storage.open_study("k", storage.open_storage(None, tmp_path / "k"), ["minimize"])
    storage.remember(study, {"metric": ["eval/nll"], "space": SPACE.describe(), "steps": 20})
    generator = np.random.default_rng(0)
    tokens, hard = generator.integers(5, 90, 60).astype(float), generator.gamma(4, 0.3, 60)
    for rank, shift in ((4, 0.2), (16, 0.001), (64, 0.0)):
        noise = generator.normal(0, 0.05, 60)
        examples = Examples((hard + shift + noise - noise.mean()) * tokens, tokens, "d")
        folder = tmp_path / "k" / str(rank)
        folder.mkdir(parents=True)
        row = {"step": 20, "timestamp": 0, "eval/nll": examples.value}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        ExamplesFolder(folder).add(20, {"eval/nll": examples}, list)
        add(study, 1e-3, rank, examples.value, directories=[str(folder)])
    return study


def test_one_run_each_is_compared_over_the_examples_that_its_evaluations_keep(kept):
    said = "\n".join(report.answer(Results.of(kept)))
    best = Results.of(kept).best().params["lora.rank"]
    other = {16: 64, 64: 16}[best]
    assert "1 of the 2 other trials are worse (95% intervals over 60 held-out examples)" in said
    assert f"it cannot be told from trial {1 if other == 16 else 2}; " in said
    assert "chance between seeds (hydra.sweeper.repeats=3) are not counted" in said
    assert "rank 4: 0.2" in said and "over 60 held-out examples): worse" in said
    assert f"rank {other}: 0.0" in said and "held-out examples): cannot be told from it" in said


def test_of_equal_trials_none_is_called_the_best(kept, tmp_path):
    """Three ranks that came to the same weights: their examples are the same, too."""
    study = storage.open_study("e", storage.open_storage(None, tmp_path / "e"), ["minimize"])
    storage.remember(study, {"metric": ["eval/nll"], "space": SPACE.describe(), "steps": 20})
    first = Results.of(kept).complete[0]
    for rank in (16, 4, 64):
        add(study, 1e-3, rank, first.values[0], directories=first.directories)
    results = Results.of(study)
    said = "\n".join(report.answer(results))
    value = f"{first.values[0]:.4f}"
    assert said.startswith(
        f"no trial is the best, all 3 have the same eval/nll; the first: 0, eval/nll {value} with "
    )
    assert "rank 4: 0.0000 behind rank 16 (95% interval 0.0000 to 0.0000, over 60" in said
    assert "60 held-out examples): the same value" in said
    assert "smallest rank with the same value, cheaper to serve: 4 (at most 0.0000 behind)" in said
    assert "-0.0000" not in said and "\nbest trial" not in said and "trials are worse" not in said
    header, rows = report.table(results)
    column = next(i for i, name in enumerate(header) if name.startswith("against trial "))
    assert [row[column] for row in rows] == ["the same"] * 3
    add(study, 3e-3, 4, first.values[0] + 1)
    assert report.answer(Results.of(study))[0].startswith(
        "first of 3 trials with the same lowest eval/nll: 0, eval/nll "
    )


def test_a_trial_whose_examples_cannot_be_read_is_named_with_their_file(kept, tmp_path):
    file = tmp_path / "k" / "4" / "examples" / "000020.parquet"
    file.write_bytes(file.read_bytes()[:200])
    said = report.answer(Results.of(kept))
    assert f"trial 0: not compared over its examples: {file} cannot be read" in said
    assert any("of 1 the data cannot tell, since nothing is kept of them" in line for line in said)


def test_ranks_that_found_their_own_learning_rates_are_told_with_them(tmp_path):
    study = storage.open_study("r", storage.open_storage(None, tmp_path / "r"), ["minimize"])
    ranks = parse(["lora.rank=4,16"]).distributions
    storage.remember(study, {"metric": ["eval/nll"], "space": {"lora.rank": "choice(4, 16)"}})
    for rank, rate, value in ((4, 6e-4, 0.52), (16, 8.4e-4, 0.5)):
        folder = tmp_path / "r" / str(rank)
        folder.mkdir(parents=True)
        guess = {"from": "auto", "lr": rate}
        (folder / "run.json").write_text(json.dumps({"learning_rate": guess}))
        study.enqueue_trial({"lora.rank": rank})
        trial = study.ask(ranks)
        trial.set_user_attr("directories", [str(folder)])
        trial.set_user_attr("command", ["model=qwen3", "lr=auto"])
        study.tell(trial, value)
    results = Results.of(study)
    said = "\n".join(report.answer(results))
    assert "best trial: 1, eval/nll 0.5000 with lora.rank=16, lr=0.00084" in said
    assert "train again: python -m sft model=qwen3 lora.rank=16 lr=0.00084" in said
    assert "differ in more than rank: 4 with lr=0.0006; 16 with lr=0.00084)" in said
    header, rows = report.table(results)
    assert header[:4] == ["trial", "lora.rank", "lr", "eval/nll"]
    assert [row[:3] for row in rows] == [["1", "16", "0.00084"], ["0", "4", "0.0006"]]


@pytest.fixture
def paused(tmp_path):
    """A study of two paused trials, whose first has two repeats; the folder of its runs."""
    study = storage.open_study("p", storage.open_storage(None, tmp_path / "p"), ["minimize"])
    storage.remember(study, {"metric": ["eval/nll"], "space": SPACE.describe(), "steps": 20})
    runs = tmp_path / "p"
    for names, rate, value in ((("0-0", "0-1"), 1e-3, 0.9), (("1",), 1e-4, 1.1)):
        folders = [str(runs / name) for name in names]
        for folder in folders:
            end_at(Path(folder), 8, "PRUNED", value)
        add(study, rate, 16, None, TrialState.PRUNED, tokens=400, curve={0: 2.0, 8: value},
            pauses=[8], directories=folders, steps_in_all=20)  # fmt: skip
    return study, runs


def end_at(folder, step, status, value):
    """A run directory that stands behind `step` steps, with the one checkpoint that it keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": status}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "eval/nll": value}) + "\n")
    record = CheckpointRecord(f"{step:06d}", step, 0, step, 100, "tinker://r/weights/a", "")
    (folder / "checkpoints.jsonl").write_text(json.dumps(asdict(record)) + "\n")


def test_without_a_complete_trial_the_paused_ones_are_named_with_their_commands(paused):
    said = "\n".join(report.answer(Results.of(paused[0])))
    assert said.startswith("no trial is complete yet\n2 trials: 800 tokens")
    assert "paused and not gone on with: 0, 1; 0 stood best, eval/nll 0.9000 at step 8" in said
    assert "python -m sft.fork p/0-0 --from 8 lr=0.00033" in said


def test_of_a_trial_with_repeats_each_run_has_its_command(paused):
    study, runs = paused
    said = "\n".join(report.answer(Results.of(study)))
    assert "sft.resume p/0-0\n" in said and "sft.resume p/0-1\n" in said
    assert "it has a value once each of its repeats has come to its end" in said
    end_at(runs / "0-0", 20, "FINISHED", 0.5)
    said = "\n".join(report.answer(Results.of(study)))
    assert "sft.resume p/0-0" not in said and "sft.resume p/0-1\n" in said
    assert "sft.fork p/0-1 --from 8" in said


def test_no_command_is_given_for_a_trial_that_was_trained_to_its_end_by_hand(paused):
    study, runs = paused
    for name in ("0-0", "0-1"):
        end_at(runs / name, 20, "FINISHED", 0.5)
    said = "\n".join(report.answer(Results.of(study)))
    assert "trial 0: trained on by hand to its end, eval/nll 0.5000" in said
    assert "paused and not gone on with: 1; " in said and "sft.resume p/0" not in said


def test_a_branch_is_offered_from_a_checkpoint_that_is_still_there(paused):
    study, runs = paused
    for name in ("0-0", "0-1"):
        end_at(runs / name, 12, "KILLED", 0.8)  # gone on with by hand, and interrupted
    assert "sft.fork p/0-0 --from 12 " in "\n".join(report.answer(Results.of(study)))


def test_the_table_marks_what_cannot_be_told_from_the_best(kept):
    header, rows = report.table(Results.of(kept))
    column = next(i for i, name in enumerate(header) if name.startswith("against trial "))
    assert rows[0][column] == "the best" and rows[1][column] == "cannot be told"
    assert rows[2][column].startswith("worse by 0.2")


def test_a_figure_shows_the_intervals(kept, tmp_path):
    (folder,), _ = report.write(kept, tmp_path / "k")
    assert (folder / "differences.png").stat().st_size > 10_000


def test_a_study_without_a_complete_trial_has_a_report_too(tmp_path):
    study = storage.open_study("e", storage.open_storage(None, tmp_path / "e"), ["minimize"])
    _, lines = report.write(study, tmp_path / "e")
    assert lines[0] == "no trial is complete yet"


def test_several_metrics_have_a_front(tmp_path):
    study = optuna.create_study(directions=["minimize", "minimize"])
    for values in ([1.0, 3.0], [2.0, 2.0], [3.0, 3.0]):
        study.tell(study.ask(SPACE.distributions), values)
    results = Results.of(study)
    assert [trial.number for trial in results.front()] == [0, 1]
    study.set_user_attr("sweep", {"metric": ["eval/nll", "lora.rank"]})
    (folder,), lines = report.write(study, tmp_path)
    assert (folder / "pareto_front.png").exists()
    assert "one run each: the data cannot tell a point near the front from one on it" in lines[0]


def test_the_command_line_prints_table_and_answer(study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main([str(tmp_path / "s")]) == 0
    printed = capsys.readouterr().out
    assert "lora.rank" in printed and "best trial: 4" in printed
    assert report.main(["absent"]) == 2
    assert "no study of that name" in capsys.readouterr().err
    with pytest.raises(BadInput):
        storage.load_study("absent")


def test_the_report_as_json_has_the_answer_and_every_trial(study, tmp_path, capsys):
    assert report.main([str(tmp_path / "s"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metrics"] == {"eval/nll": "minimize"} and Path(said["page"]).is_file()
    best = said["trials"][said["best"]]
    assert (best["lr"], best["lora.rank"], best["eval/nll"]) == (1e-3, 64, 0.5)
    assert [trial["status"] for trial in said["trials"]].count("complete") == len(VALUES)
