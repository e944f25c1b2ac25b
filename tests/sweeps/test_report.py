"""What a study says: best trial, smallest rank, savings, figures and one page."""

import optuna
import pytest
from optuna.trial import TrialState

from sft.errors import BadInput
from sweeps import report
from sweeps.findings.results import Results
from sweeps.space import parse
from sweeps.study import storage

SPACE = parse(["lr=1e-4,1e-3,3e-3", "lora.rank=4,16,64"])
# (lr, rank) -> final NLL
VALUES = {
    (1e-4, 4): 0.60, (1e-4, 16): 0.55, (1e-3, 4): 0.5105, (1e-3, 16): 0.5015, (1e-3, 64): 0.5,
}  # fmt: skip


@pytest.fixture
def study(tmp_path):
    study = storage.open_study("s", storage.open_storage(None, tmp_path / "s"), ["minimize"])
    storage.remember(study, {"metric": ["eval/nll"], "space": SPACE.describe(), "steps": 20})
    study.set_user_attr("price_per_million_tokens", 2.0)
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
    attrs |= {"tokens": tokens, "seconds": 60.0, "steps": 20}
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
    assert "smallest rank within 0.5% (±0.0025) of the best, cheaper to serve: 16" in said
    assert "a rule of thumb: one run each cannot tell ranks apart" in said
    assert "one run each: the data cannot tell whether its eval/nll is better" in said
    assert "python -m sft model=qwen3 lr=0.001 lora.rank=16" in said
    assert "trial 6: diverged (diverged: train/nll is nan at step 2)" in said
    assert "trial 7: failed (RuntimeError: boom)" in said
    assert "5,500 tokens" in said and "cost 0.01" in said
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
        "learning_curves", "learning_rate", "parallel_coordinates", "tokens_saved",
    ]  # fmt: skip
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(images)
    assert "http://" not in page and "https://" not in page
    assert "cheaper to serve" in page
    assert "importance of the parameters: not split among lr, lora.rank" in page
    assert lines[0] in page


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
