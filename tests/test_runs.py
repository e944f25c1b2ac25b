import json
import os
import subprocess
import sys

import pytest

from sft import runs
from sft.files import dump_yaml
from sft.record import rundir
from sft.record.metrics import MetricsFile
from sft.tracking.store import open_client
from tests.tracking.tracked_run import SETTINGS, TrackedRun


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def crash(place, uri):
    """A process that begins a run, trains two steps, and is gone."""
    code = (
        "import os, pathlib; from tests.tracking.tracked_run import TrackedRun\n"
        "from sft import tracking\n"
        f"run = TrackedRun(pathlib.Path('outputs/crashed'), {uri!r}, 'crashed').start()\n"
        "run.step(0, train_nll=2.0); tracking.flush(30); run.step(1, train_nll=1.0)\n"
        "os._exit(9)"
    )
    root = os.path.dirname(os.path.dirname(__file__))
    subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=os.environ | {"PYTHONPATH": root}, timeout=100
    )


def test_a_run_that_a_crash_left_open_is_closed_as_killed_on_disk_and_in_mlflow(place, capsys):
    uri = f"sqlite:///{place / 'mlflow.db'}"
    crash(place, uri)
    assert runs.main([]) == 0
    out = capsys.readouterr().out
    assert "closed as KILLED: outputs/crashed" in out and "KILLED" in out.splitlines()[2]
    facts = json.loads((place / "outputs/crashed/run.json").read_text())
    assert facts["status"] == "KILLED" and "without a word" in facts["reason"]
    client = open_client(uri)
    [run] = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "KILLED"
    assert len(client.get_metric_history(run.info.run_id, "train/nll")) == 2
    assert runs.main([]) == 0
    assert "closed" not in capsys.readouterr().out


def test_a_run_that_a_process_still_trains_is_left_alone(place, capsys):
    run = TrackedRun(place / "outputs/live", f"sqlite:///{place / 'mlflow.db'}")
    with rundir._lock(run.directory):
        assert runs.main([]) == 0
    assert "RUNNING" in capsys.readouterr().out.splitlines()[1]


def test_the_list_shows_model_rate_rank_and_last_values(place, capsys):
    run = TrackedRun(place / "outputs/a", f"sqlite:///{place / 'mlflow.db'}")
    run.step(0, train_nll=2.0, eval_nll=3.0)
    run.step(1, train_nll=1.5)
    run.record(status="FINISHED", started=1.0)
    assert runs.main(["outputs"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == list(runs.COLUMNS)
    assert row.split()[:8] == ["FINISHED", "tiny", "faq", "0.0001", "8", "1", "1.5000", "3.0000"]
    assert row.endswith("outputs/a")


@pytest.fixture
def three(place):
    """Runs of two learning rates and two ends; the last has measured nothing on held-out data."""
    for name, rate, nll, status in (
        ("faq-a", 1e-4, 2.5, "FINISHED"),
        ("faq-b", 1e-3, 1.5, "FINISHED"),
        ("maths", 1e-3, None, "FAILED"),
    ):
        directory = place / f"outputs/2026-01-31/10-00-00-{name}-of-a-name-that-says-very-much"
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(dump_yaml(SETTINGS | {"lr": rate}))
        (directory / "run.json").write_text(json.dumps({"status": status, "started": 1.0}))
        measured = {"train/nll": 3.0} | ({"eval/nll": nll} if nll else {})
        MetricsFile(directory / "metrics.jsonl").merge(0, measured)


def listed_names(capsys, *words):
    assert runs.main([*words, "--json"]) == 0
    return [run["name"].partition("-of")[0] for run in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    "words, names",
    [
        (["--sort", "eval/nll"], ["faq-b", "faq-a", "maths"]),
        (["--sort", "eval/nll", "--reverse"], ["faq-a", "faq-b", "maths"]),
        (["--where", "status=FINISHED", "--sort", "name"], ["faq-a", "faq-b"]),
        (["--where", "status!=FINISHED"], ["maths"]),
        (["--where", "name=faq*", "--where", "lr=1e-3"], ["faq-b"]),
        (["--where", "eval/nll<=1.5"], ["faq-b"]),
        (["--where", "lora.rank>8"], []),
    ],
)
def test_runs_are_sorted_and_chosen_by_columns_settings_and_metrics(capsys, three, words, names):
    assert listed_names(capsys, *words) == names


@pytest.mark.parametrize(
    "words, said",
    [
        (["--sort", "eval/nl"], "--sort eval/nl: no run has it; expected a column, a setting"),
        (["--where", "stat=FINISHED"], "did you mean 'status'?"),
        (["--where", "FINISHED"], "--where FINISHED: expected KEY=VALUE"),
        (["--where", "lr<fast"], "--where lr<fast: 'fast' is not a number"),
    ],
)
def test_a_key_that_no_run_has_and_a_bad_condition_are_one_sentence(capsys, three, words, said):
    assert runs.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_list_as_json_is_numbers_with_null_for_what_is_not_known(capsys, three):
    assert runs.main(["--json", "--where", "name=maths*"]) == 0
    [run] = json.loads(capsys.readouterr().out)
    assert run["lr"] == 1e-3 and run["train/nll"] == 3.0 and run["eval/nll"] is None


def test_on_80_columns_no_line_is_longer_and_no_path_is_cut(three):
    listed = [runs.listed(directory) for directory in runs.find_runs([runs.FOLDER])]
    lines = runs.table(listed, 80)
    assert max(map(len, lines)) <= 80
    assert all(any(run.columns["path"] in line.split() for line in lines) for run in listed)
    assert len(runs.table(listed)) == 1 + len(listed)  # in a pipe: a line each


def test_without_runs_it_says_how_to_make_one(place, capsys):
    assert runs.main([]) == 0
    assert "python -m sft" in capsys.readouterr().out
    assert runs.main(["nowhere"]) == 2


@pytest.mark.parametrize(
    "word, said",
    [
        ("nowhere", "there is no such folder"),
        ("models:/faq@champion", "is a name in MLflow"),
        ("runs:/" + "0" * 32, "is a name in MLflow"),
        ("0" * 32, "is a name in MLflow"),
    ],
)
def test_a_word_that_is_no_folder_says_what_it_is(place, capsys, word, said):
    assert runs.main([word]) == 2
    assert capsys.readouterr().err == (
        f"sft.runs: {word}: {said}; expected folders to look in (default: outputs/)\n"
    )
