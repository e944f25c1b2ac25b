"""A run is trained again from MLflow alone: its data, too, if it was kept there."""

import json
import shutil
from pathlib import Path

import pytest

from sft import reproduce, tracking
from sft.command import launch
from sft.config.compose import compose
from sft.data.files.inventory import take
from sft.past.fetched import needed
from sft.past.find import find
from sft.past.trust import saved_config
from sft.tracking.store import open_client
from tests.chat_data import write_chats
from tests.finished_run import finished_run, overrides
from tests.tracking.tracked_run import SETTINGS, TrackedRun

KEEP = "tracking.keep_data_mb=1"
URI = "sqlite:///../mlflow.db"


def only_mlflow(place, elsewhere):
    """The MLflow store of `place`, copied beside an empty folder; that folder."""
    elsewhere.mkdir(parents=True)
    shutil.copy(place / "mlflow.db", elsewhere.parent)
    shutil.copytree(place / "mlartifacts", elsewhere.parent / "mlartifacts")
    return elsewhere


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_model):
    """Where a run was, its MLflow id, facts and rows: its directory and its data are gone."""
    place = tmp_path_factory.mktemp("place")
    run = find(str(finished_run(place, tiny_model, "run_name=first", KEEP)))
    facts, rows = run.facts(), run.rows()
    shutil.rmtree(place / "run")
    (place / "chats.jsonl").rename(place / "gone.jsonl")
    return place, run.run_id, facts, rows


@pytest.fixture
def elsewhere(original, tmp_path, monkeypatch):
    folder = only_mlflow(original[0], tmp_path / "elsewhere")
    (original[0] / "mlartifacts").rename(original[0] / "hidden")
    monkeypatch.chdir(folder)
    yield folder
    (original[0] / "hidden").rename(original[0] / "mlartifacts")


def test_files_of_data_are_recorded_with_digest_size_and_rows(original):
    place, run_id, facts, _ = original
    known = facts["files"]["dataset"]
    assert known["path"] == "chats.jsonl" and known["rows"] == 24
    assert known["bytes"] == (place / "gone.jsonl").stat().st_size
    run = open_client(f"sqlite:///{place / 'mlflow.db'}").get_run(run_id)
    training, held_out = (one.dataset for one in run.inputs.dataset_inputs)
    profile = json.loads(training.profile)
    assert (profile["num_rows"], profile["bytes"]) == (24, known["bytes"])
    assert profile["sha256"] == known["sha256"] and profile["conversations"] == 19
    assert held_out.name == "chats.jsonl (held out)"
    assert json.loads(held_out.profile)["conversations"] == 4


@pytest.mark.slow
def test_a_run_is_reproduced_from_mlflow_alone_where_its_data_is_gone(original, elsewhere, capsys):
    _, run_id, _, rows = original
    assert reproduce.main([run_id, "--uri", URI, "--trust"]) == 0  # the model is a folder, too
    said = capsys.readouterr().out
    assert "dataset.path: chats.jsonl as MLflow keeps it, in outputs/data/" in said
    assert "as it was: " in said and "verdict: agrees: all 9 values" in said
    [new] = elsewhere.glob("outputs/2*/*/config.yaml")
    again = find(str(new.parent))
    path = Path(again.saved()["dataset"]["path"])
    assert path.name == "chats.jsonl" and path.is_file() and not path.is_absolute()
    assert again.rows()[-1]["eval/nll"] == rows[-1]["eval/nll"]
    assert again.kept("data").keys() == {"data/dataset/chats.jsonl"}  # and so it goes on


def test_what_the_harness_fetches_itself_needs_no_trust(original, elsewhere):
    found = find(original[1], URI)
    write_chats(elsewhere / "chats.jsonl", count=24)  # what lies here is not theirs to name
    kept = needed(found, found.facts(), trust=False)
    assert [one.key for one in kept] == ["dataset.path"]
    places = {one.key: one.place for one in kept}
    with pytest.raises(Exception, match="model.name names a place") as caught:
        saved_config(found, False, places)
    assert "dataset.path" not in str(caught.value)
    with pytest.raises(Exception, match="dataset.path names a place"):
        saved_config(found, False)
    assert not (elsewhere / "outputs").exists()


def test_a_file_that_is_there_is_used_if_the_config_is_trusted(original, elsewhere):
    shutil.copy(original[0] / "gone.jsonl", elsewhere / "chats.jsonl")
    found = find(original[1], URI)
    assert needed(found, found.facts(), trust=True) == []


def test_a_kept_file_that_was_changed_is_refused_and_not_trained_on(original, elsewhere, capsys):
    [file] = (elsewhere.parent / "mlartifacts").rglob("data/dataset/chats.jsonl")
    text = file.read_text()
    file.write_text(text.replace("a", "b"))
    assert reproduce.main([original[1], "--uri", URI, "--trust"]) == 2
    assert "is not what the run read (sha256" in capsys.readouterr().err
    file.write_text(text + text)
    assert reproduce.main([original[1], "--uri", URI, "--trust"]) == 2
    assert "bytes of the" in capsys.readouterr().err
    assert not list(elsewhere.glob("outputs/data/*/*"))


@pytest.mark.parametrize("inside", ["../chats.jsonl", "/etc/passwd", "*/../../../etc/passwd"])
def test_a_record_from_elsewhere_that_leads_out_of_its_folder_is_not_followed(
    original, elsewhere, inside
):
    found = find(original[1], URI)
    facts = found.facts()
    facts["files"]["dataset"]["inside"] = inside
    assert needed(found, facts, trust=True) == []


@pytest.mark.slow
def test_shards_parts_and_held_out_sets_are_kept_each_under_its_key(
    tmp_path, tiny_model, monkeypatch, capsys
):
    place = tmp_path / "place"
    (place / "shards" / "one").mkdir(parents=True)
    for name, count in (("shards/one/a", 6), ("shards/one/b", 6), ("more", 8), ("exam", 4)):
        write_chats(place / f"{name}.jsonl", count=count)
    words = [
        "dataset=mix",
        "dataset.parts.shards.path='shards/*/*.jsonl'",
        "dataset.parts.more.path=more.jsonl",
        "dataset.eval_sets.exam.path=exam.jsonl",
        "max_steps=2",
    ]
    words += [word for word in overrides(tiny_model) if not word.startswith(("dataset", "max_s"))]
    monkeypatch.chdir(place)
    assert launch.run(compose([*words, KEEP, "run_dir=run"])) == 0
    run = find(str(place / "run"))
    assert run.kept("data").keys() == {
        "data/dataset.parts.shards/one/a.jsonl",
        "data/dataset.parts.shards/one/b.jsonl",
        "data/dataset.parts.more/more.jsonl",
        "data/dataset.eval_sets.exam/exam.jsonl",
    }
    monkeypatch.chdir(only_mlflow(place, tmp_path / "store" / "elsewhere"))
    shutil.rmtree(place)
    assert reproduce.main([str(run.run_id), "--uri", URI, "--trust"]) == 0
    said = capsys.readouterr().out
    assert "dataset.parts.shards.path: shards/*/*.jsonl as MLflow keeps it" in said
    assert "dataset.eval_sets.exam.path: exam.jsonl as MLflow keeps it" in said
    assert "verdict: agrees" in said


@pytest.mark.slow
def test_questions_are_kept_with_the_run_and_what_is_measured_on_them_says_so(
    tmp_path, tiny_model, monkeypatch, capsys
):
    place = tmp_path / "place"
    place.mkdir()
    row = {"question": "Which one?", "choices": ["this", "that"], "answer": 1}
    (place / "choices.jsonl").write_text(json.dumps(row) + "\n")
    (place / "exam.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    match = "{builder: 'sft.evaluators:MatchBuilder', args: {path: exam.jsonl, name: exam}}"
    words = ("evaluators=choice", "evaluators.args.path=choices.jsonl", "evaluators.every=3")
    run = find(str(finished_run(place, tiny_model, *words, f"evaluators.further=[{match}]", KEEP)))
    assert set(run.kept("data")) == {
        "data/dataset/chats.jsonl",
        "data/evaluators.args.path/choices.jsonl",
        "data/evaluators.further[0].args.path/exam.jsonl",
    }
    client = open_client(f"sqlite:///{place / 'mlflow.db'}")
    model = client.get_logged_model(client.get_run(run.run_id).outputs.model_outputs[-1].model_id)
    of = {metric.key: metric.dataset_name for metric in model.metrics}
    assert of["eval/choice/accuracy"] == "choices.jsonl"
    assert of["eval/exam/accuracy"] == "exam.jsonl"
    monkeypatch.chdir(only_mlflow(place, tmp_path / "store" / "elsewhere"))
    shutil.rmtree(place)
    assert reproduce.main([str(run.run_id), "--uri", URI, "--trust"]) == 0
    said = capsys.readouterr().out
    assert "evaluators.further[0].args.path: exam.jsonl as MLflow keeps it" in said
    assert "the evaluators' files" in said and "eval/choice/accuracy is identical" in said


def tracked(folder, limit):
    """A run on a file of data, as MLflow is told of it."""
    (folder / "chats.jsonl").write_text("a line\n" * 100)
    settings = SETTINGS | {"tracking": {"keep_data_mb": limit}}
    run = TrackedRun(folder / "run", f"sqlite:///{folder / 'mlflow.db'}", settings=settings)
    known = vars(take(str(folder / "chats.jsonl")))
    run.record(files={"dataset": known})
    return run


def test_what_is_larger_than_the_user_allows_is_not_kept_and_said(tmp_path, caplog):
    run = tracked(tmp_path, 0.0001).start()
    run.end()
    assert tracking.flush(30) == []
    assert "0.0007 MB, more than tracking.keep_data_mb=0.0001" in caplog.text
    assert find(str(run.directory)).kept("data") == {}


def test_nothing_is_kept_unless_the_user_says_so(tmp_path, caplog):
    run = tracked(tmp_path, 0).start()
    run.end()
    assert tracking.flush(30) == []
    assert "does not keep" not in caplog.text and find(str(run.directory)).kept("data") == {}


def test_a_file_that_was_changed_before_mlflow_could_be_told_is_not_kept(tmp_path, caplog):
    run = tracked(tmp_path, 1)
    (tmp_path / "chats.jsonl").write_text("other\n" * 100)
    run.start().end()
    assert tracking.flush(30) == []
    assert "chats.jsonl is not as it was read" in caplog.text
    assert find(str(run.directory)).kept("data") == {}
