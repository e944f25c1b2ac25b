import html
import json
import re

import pytest

from sft import compare
from sft.display import comparison_page, text_chart
from tests.tracking.tracked_run import SETTINGS, TrackedRun


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for number, lr in enumerate((1e-4, 3e-4, 1e-3)):
        run = TrackedRun(tmp_path / f"outputs/{number}", uri, f"run{number}", SETTINGS | {"lr": lr})
        run.step(0, train_nll=3.0, eval_nll=3.0)
        run.step(1, train_nll=2.0 - number / 10, tokens_total=100)
        run.step(2, eval_nll=2.5 - number / 10)
        run.record(status="FINISHED", started=float(number), seconds=65.0)
    return tmp_path


def test_only_what_differs_is_printed(place, capsys):
    assert compare.main(["outputs/0", "outputs/2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^A +run0\n^B +run2$", out, re.MULTILINE)
    assert re.search(r"^lr +0.0001 +0.001$", out, re.MULTILINE)
    assert re.search(r"^eval/nll last +2.5000 +2.3000$", out, re.MULTILINE)
    assert "eval/nll (nats per token) against step" in out
    for same in ("lora.rank", "model.name", "tokens", "time", "state"):
        assert same not in out


def test_json_says_what_the_text_says(place, capsys):
    assert compare.main(["outputs/0", "outputs/2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["runs"] == {"A": "run0", "B": "run2"}
    assert said["settings"] == {"lr": {"A": "0.0001", "B": "0.001"}}
    assert said["figures"]["eval/nll last"] == {"A": "2.5000", "B": "2.3000"}
    assert said["verdicts"] == ["no interval of eval/nll: no examples are kept of them"]


def test_the_last_runs_are_the_newest(place, capsys):
    assert compare.main(["--last", "2"]) == 0
    out = capsys.readouterr().out
    assert "run1" in out and "run2" in out and "run0" not in out


def test_a_sweeps_trials_come_in_their_order(place, capsys):
    for number in ("10", "2"):
        TrackedRun(place / "outputs/sweeps/study" / number, "sqlite:///x.db", f"study-{number}")
    assert compare.main(["--sweep", "study"]) == 0
    out = capsys.readouterr().out
    assert out.index("study-2") < out.index("study-10") and "the same" in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["outputs/0"], "name two or more"),
        (["outputs/0", "outputs/9"], "outputs/9: is no run directory"),
        (["--last", "1"], "below 2"),
        (["--sweep", "none"], "no MLflow store"),
        (["outputs/0", "outputs/1", "--html", "nowhere/page.html"], "no folder nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(place, capsys, arguments, said):
    assert compare.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_the_page_holds_everything_and_loads_nothing(place):
    assert compare.main(["outputs/0", "outputs/1", "--html", "page.html"]) == 0
    page = (place / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["runs"] == ["run0", "run1"]
    assert data["metrics"][0]["curves"][1] == [[0, 3.0], [2, 2.4]]
    assert not re.search(r"""(src|href)=|@import|url\(|fetch\(""", page)


def test_names_and_values_cannot_write_into_the_page():
    evil = "</script><script>alert(1)</script>@DATA@"
    runs = [
        compare.Compared(evil, {"lr": value}, {}, [{"step": 0, "train/nll": float("nan")}])
        for value in (evil, "1")
    ]
    page = comparison_page.page(runs)
    assert "<script>alert" not in page and html.escape(evil) in page
    assert page.count('id="data"') == 1


def test_long_curves_are_thinned_and_keep_their_ends():
    points = [(step, float(step)) for step in range(10_001)]
    kept = comparison_page._thin(points)
    assert len(kept) <= comparison_page.MAX_POINTS + 1
    assert kept[0] == [0, 0.0] and kept[-1] == [10_000, 10_000.0]


def test_a_chart_has_every_curve_and_the_ends_of_both_axes():
    drawn = text_chart.chart({"A": [(0, 2.0), (10, 1.0)], "B": [(0, 2.0), (10, 2.0)]}, "loss")
    lines = drawn.splitlines()
    assert lines[0] == "loss" and lines[1].startswith("2 |*") and lines[1].endswith("B")
    assert lines[12].startswith("1 |") and lines[12].endswith("A")
    assert lines[-1].split() == ["0", "10"]


@pytest.mark.parametrize("points", [[], [(0, float("nan"))]])
def test_a_chart_of_nothing_says_so(points):
    assert "no finite values" in text_chart.chart({"A": points}, "loss")


def test_a_single_point_is_a_chart():
    assert "A" in text_chart.chart({"A": [(3, 1.0)]}, "loss")
