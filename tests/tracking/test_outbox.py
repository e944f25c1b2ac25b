"""What a dashboard gets of a run when it is slow, away or back: everything, and once."""

import json
import threading
from dataclasses import dataclass

import pytest

from sft import runs
from sft.config.compose import compose
from sft.config.saved import to_saved
from sft.errors import BadInput
from sft.files import dump_yaml
from sft.hooks import Run, RunResult
from sft.keys import key
from sft.record.checkpoints import CheckpointFile, CheckpointRecord
from sft.record.metrics import MetricsFile
from sft.tracking import trackers
from sft.tracking.dashboards.dashboard import Dashboard


@dataclass
class Options:
    colour: str = key("red", "of the lines")
    width: int = key(1, "of the lines", minimum=1)


class Board:
    """A dashboard that can be away, or keep its callers waiting."""

    def __init__(self):
        self.confirms = True
        self.errors = []
        """Raised one after the other, before anything is taken."""
        self.open = threading.Event()
        self.open.set()
        self.pages = []

    def page(self, told, options, settings):
        self.pages.append(Page(self, told, options))
        return self.pages[-1]

    def wait(self):
        self.open.wait(60)
        if self.errors:
            raise self.errors.pop(0)

    @property
    def points(self):
        """Of all pages: step and metrics, in the order of their coming."""
        return [(step, metrics) for page in self.pages for step, _, metrics in page.got]


class Page:
    def __init__(self, board, told, options):
        self.board, self.told, self.options = board, told, options
        self.got, self.tables, self.paths, self.ended = [], [], [], None

    def begin(self):
        self.board.wait()
        return True

    def rows(self, rows):
        self.board.wait()
        self.got += rows
        return self.board.confirms

    def table(self, name, step, rows):
        self.tables.append((name, step, rows))

    def checkpoints(self, records):
        self.paths = [record.state_path for record in records]

    def end(self, end):
        self.board.wait()
        self.ended = end


@pytest.fixture
def board(monkeypatch):
    """The dashboard `json`: a package of that name is installed wherever Python is."""
    board = Board()
    dashboard = Dashboard("json", "Board", Options, board.page)
    monkeypatch.setitem(trackers.TRACKERS, "json", dashboard)
    yield board
    board.open.set()


class Life:
    """A run directory, and what the training loop tells the hook of it in one process."""

    def __init__(self, directory, start_step=0, tags=None, tracker="json", options=""):
        chosen = f"tracking.also={{{tracker}: {{{options}}}}}"
        settings = compose(["tracking=none", chosen])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.yaml").write_text(dump_yaml(to_saved(settings)))
        self.directory = directory
        self.record("RUNNING")
        self.metrics = MetricsFile(directory / "metrics.jsonl")
        self.metrics.truncate(start_step)
        [self.hook] = trackers.hooks(settings, tags or {})
        self.hook.on_start(Run(None, to_saved(settings), directory, "first", {}, start_step))

    def record(self, status):
        self.directory.joinpath("run.json").write_text(json.dumps({"status": status}))

    def step(self, step, **metrics):
        values = {key.replace("_", "/"): value for key, value in metrics.items()}
        self.hook.on_metrics(step, values, self.metrics.merge(step, values))

    def save(self, step):
        paths = [f"tinker://run/{kind}/{step}" for kind in ("weights", "sampler_weights")]
        record = CheckpointRecord(f"{step:06d}", step, 0, step, step, *paths)
        CheckpointFile(self.directory / "checkpoints.jsonl").append(record)
        self.hook.on_checkpoint(record)

    def end(self, status="FINISHED"):
        self.record(status)
        self.hook.on_end(RunResult(status, self.directory, "first", 3))


def flush():
    return trackers.TRACKERS["json"].flush(60)


def test_a_dashboard_gets_all_that_a_run_tells(board, tmp_path):
    life = Life(tmp_path / "run", tags={"sweep.trial": "3"}, options="colour: blue")
    life.step(0, train_nll=2.0)
    life.hook.on_table("answers", 0, [{"prompt": "p"}])
    life.step(1, train_nll=1.0)
    life.step(0, eval_nll=2.5)
    life.save(2)
    life.end()
    assert flush() == []
    [page] = board.pages
    assert page.told.name == "first" and page.options.colour == "blue"
    assert page.told.parameters["lora.rank"] == 32 and page.told.tags == {"sweep.trial": "3"}
    measured = {(step, *one) for step, metrics in board.points for one in metrics.items()}
    assert measured == {(0, "train/nll", 2.0), (1, "train/nll", 1.0), (0, "eval/nll", 2.5)}
    assert page.tables == [("answers", 0, [{"prompt": "p"}])]
    assert page.paths == ["tinker://run/weights/2"] and page.ended.status == "FINISHED"


def test_evaluations_may_come_in_any_order(board, tmp_path):
    life = Life(tmp_path / "run")
    life.step(4, train_nll=1.0)
    life.step(4, eval_nll=1.0)
    assert flush() == []
    life.step(2, eval_nll=2.0)
    life.end()
    assert flush() == []
    assert board.points[-1] == (2, {"eval/nll": 2.0})


def test_a_dashboard_that_keeps_its_callers_waiting_does_not_hold_the_run_up(board, tmp_path):
    board.open.clear()
    life = Life(tmp_path / "run")
    for step in range(3):
        life.step(step, train_nll=1.0)
    life.end()
    assert board.points == []  # all of it was told while nothing went on there
    board.open.set()
    assert flush() == []
    assert [step for step, _ in board.points] == [0, 1, 2]


def test_one_that_is_away_is_warned_of_and_gets_everything_when_it_is_back(board, tmp_path, caplog):
    board.errors = [OSError("nobody answers")]
    life = Life(tmp_path / "run")
    life.step(0, train_nll=1.0)
    life.end()
    assert flush() == []
    said = [r.getMessage() for r in caplog.records if r.name.startswith("sft")]
    assert "(nobody answers); training goes on" in said[0] and "Board is back" in said[1]
    assert [step for step, _ in board.points] == [0]


def test_after_an_error_only_what_was_not_confirmed_is_sent_again(board, tmp_path):
    life = Life(tmp_path / "run")
    life.step(0, train_nll=2.0)
    assert flush() == []
    board.confirms = False
    life.step(1, train_nll=1.5)
    assert flush() == []
    board.errors = [OSError("gone")]
    life.step(2, train_nll=1.0)
    life.end()
    assert flush() == []
    assert [[step for step, *_ in page.got] for page in board.pages] == [[0, 1], [1, 2]]


def test_what_an_ended_run_could_not_send_is_sent_by_the_next_command(
    board, tmp_path, capsys, monkeypatch
):
    board.errors = [OSError("nobody answers")] * 3
    life = Life(tmp_path / "run")
    life.step(0, train_nll=1.0)
    life.end()
    [sentence] = flush()
    assert "Board lacks part of" in sentence and "python -m sft.runs" in sentence
    # Another process has an outbox of its own.
    another = Dashboard("json", "Board", Options, board.page)
    monkeypatch.setitem(trackers.TRACKERS, "json", another)
    assert runs.main([str(life.directory)]) == 0
    assert "sent to Board what it lacked of 1 run\n" in capsys.readouterr().out
    assert board.points == [(0, {"train/nll": 1.0})]
    assert board.pages[-1].ended.status == "FINISHED"
    assert runs.main([str(life.directory)]) == 0
    assert "sent to" not in capsys.readouterr().out


def test_a_resumed_run_goes_on_under_its_id_from_its_checkpoint(board, tmp_path):
    life = Life(tmp_path / "run")
    for step in range(4):
        life.step(step, train_nll=float(step))
    life.step(2, eval_nll=7.0)
    life.end("KILLED")
    assert flush() == []
    life = Life(tmp_path / "run", start_step=2)
    for step in (2, 3, 4):
        life.step(step, train_nll=10.0 + step)
    life.end()
    assert flush() == []
    first, second = board.pages
    assert first.told.id == second.told.id
    expected = [(step, {"train/nll": 10.0 + step}) for step in (2, 3, 4)]
    assert [(step, metrics) for step, _, metrics in second.got] == expected


def test_a_life_that_follows_in_the_same_process_waits_for_the_one_before(board, tmp_path):
    board.open.clear()
    life = Life(tmp_path / "run")
    life.step(0, train_nll=1.0)
    life.end("FAILED")
    life = Life(tmp_path / "run", start_step=1)
    life.step(1, train_nll=2.0)
    life.end()
    board.open.set()
    assert flush() == []
    assert [page.ended.status for page in board.pages] == ["FAILED", "FINISHED"]
    assert [step for step, *_ in board.pages[1].got] == [1]


@pytest.mark.parametrize(
    "override, said",
    [
        ("{json: {color: red}}", r"also\.json\.color: Board takes colour, width; did you mean"),
        ("{json: {width: 0}}", r"tracking\.also\.json\.width: 0 is not a whole number of 1"),
        ("{tensorboard: {folder: x}}", r"also\.tensorboard\.folder: TensorBoard takes no options"),
    ],
)
def test_options_that_a_dashboard_does_not_take_are_bad_input(board, override, said):
    with pytest.raises(BadInput, match=said):
        trackers.hooks(compose(["tracking=none", f"tracking.also={override}"]), {})


def test_one_that_is_not_installed_is_bad_input_though_a_folder_has_its_name(tmp_path, monkeypatch):
    missing = Dashboard("no_such_board", "Board", Options, Board().page)
    monkeypatch.setitem(trackers.TRACKERS, "no_such_board", missing)
    (tmp_path / "no_such_board").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="not installed; pip install no_such_board, or leave it out"):
        trackers.hooks(compose(["tracking.also={no_such_board: {}}", "tracking.uri=null"]), {})
