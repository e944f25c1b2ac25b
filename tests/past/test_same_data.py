"""A reproduction says that data, code and model are as they were only where it has looked."""

import json
import shutil
import subprocess
import sys

import pytest

from sft import reproduce
from sft.past.then_and_now import surroundings
from sft.record import fingerprints
from tests.chat_data import write_chats
from tests.finished_run import overrides

MY_DATA = '''
from dataclasses import dataclass

import datasets

from sft.datasets import SupervisedDatasetFromHFDataset, conversation_to_datum
from sft.types import ChatDatasetBuilder


@dataclass
class MyBuilder(ChatDatasetBuilder):
    """A builder without a digest: a question, a tab, an answer a line."""

    path: str = "notes.txt"
    held_out: str = "held_out.txt"

    def __call__(self):
        def to_datum(row):
            question, answer = row["text"].split("\\t")
            chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            return conversation_to_datum(chat, self.renderer, self.common_config.max_length)

        files = [datasets.Dataset.from_text(path) for path in (self.path, self.held_out)]
        size = self.common_config.batch_size
        return tuple(SupervisedDatasetFromHFDataset(rows, size, to_datum) for rows in files)
'''


def train(folder, tiny_model, *more, directory="run"):
    words = [word for word in overrides(tiny_model) if not word.startswith("dataset")]
    subprocess.run(
        [sys.executable, "-m", "sft", *words, f"run_dir={directory}", *more],
        cwd=folder, check=True, capture_output=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def custom(tmp_path_factory, tiny_model):
    """A folder with a finished run of six steps on a builder of the user's own."""
    folder = tmp_path_factory.mktemp("custom")
    (folder / "my_data.py").write_text(MY_DATA)
    lines = [f"What is {i}?\tIt is {i * i}.\n" for i in range(24)]
    (folder / "notes.txt").write_text("".join(lines[:20]))
    (folder / "held_out.txt").write_text("".join(lines[20:]))
    more = ["dataset=custom", "dataset.builder=my_data:MyBuilder", "tracking.uri=null"]
    train(folder, tiny_model, *more)
    return folder


@pytest.fixture
def here(custom, monkeypatch):
    monkeypatch.chdir(custom)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(custom / "cache"))
    yield custom
    sys.modules.pop("my_data", None)


@pytest.fixture
def edit(here):
    """Changes a file of the folder for one test."""
    before = {}

    def change(name, old, new):
        text = before.setdefault(name, (here / name).read_text())
        assert old in text
        (here / name).write_text(text.replace(old, new))

    yield change
    for name, text in before.items():
        (here / name).write_text(text)


def test_batches_held_out_data_and_code_of_a_custom_builder_are_compared(here, capsys):
    assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    [same] = [line for line in said.splitlines() if "as it was: " in line]
    for what in ("the batches of the first 6 steps", "held-out data", "the builders' code"):
        assert what in same
    assert "all 6 steps trained on the same data" in said and "verdict: agrees" in said


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("notes.txt", "It is", "It was", "the batch of step 0"),
        ("held_out.txt", "It is 441.", "It is 442.", "held-out data digest"),
    ],
)
def test_other_data_of_a_custom_builder_is_found_before_training(
    here, edit, capsys, name, old, new, words
):
    edit(name, old, new)
    made = len(list(here.glob("outputs/*/*")))
    assert reproduce.main(["run"]) == 2
    said = capsys.readouterr().err
    assert "the data is not the same" in said and words in said
    assert len(list(here.glob("outputs/*/*"))) == made


def test_a_builders_code_that_changed_is_told_where_its_data_did_not(here, edit, capsys):
    edit("my_data.py", "a line.", "a line, no more.")
    assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    assert "the builders' code: my_data changed" in said and "verdict: agrees" in said


def test_data_that_differs_beyond_the_first_batches_is_told_afterwards(here, edit, capsys):
    lines = (here / "run" / "batches.jsonl").read_text()
    last = json.loads(lines.splitlines()[-1])
    edit("run/batches.jsonl", last["digest"], "0" * 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sft.run.batches.FIRST_BATCHES", 2)
        assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    assert "not compared: the batches from step 2 on, until they are trained" in said
    assert "the data was another one from step 5 on" in said


def test_of_a_run_without_digests_the_data_is_said_not_to_be_compared(here, capsys):
    shutil.copytree("run", "old")
    (here / "old" / "batches.jsonl").unlink()
    facts = json.loads((here / "old" / "run.json").read_text())
    for key in ("digest", "held_out_digest", "held_out_sequences", "code", "harness"):
        facts.pop(key)
    (here / "old" / "run.json").write_text(json.dumps(facts))
    assert reproduce.main(["old"]) == 0
    said = capsys.readouterr().out
    assert "not compared: the data: that run recorded no digest of it" in said
    assert "not compared: the held-out data" in said and "not compared: the harness's code" in said
    assert not any("data" in line for line in said.splitlines() if "as it was:" in line)


@pytest.fixture(scope="module")
def own_model(tmp_path_factory, tiny_model):
    """A folder with a finished run on chats, of a model that lies there, without MLflow."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(tiny_model, folder / "model")
    write_chats(folder / "chats.jsonl", count=24)
    more = ["dataset=jsonl", "dataset.path=chats.jsonl", "dataset.eval_size=4"]
    train(folder, folder / "model", *more, "tracking.uri=null", "max_steps=2")
    return folder


@pytest.mark.slow
def test_data_is_compared_without_mlflow_too(own_model, monkeypatch, capsys):
    monkeypatch.chdir(own_model)
    chats = own_model / "chats.jsonl"
    before = chats.read_text()
    chats.write_text(before.replace("red", "pink"))
    try:
        assert reproduce.main(["run"]) == 2
        assert "the data is not the same: data digest" in capsys.readouterr().err
        assert reproduce.main(["run", "lr=1e-3"]) == 0  # a variation: told, not refused
        assert "data digest" in capsys.readouterr().out
    finally:
        chats.write_text(before)


def test_other_tokens_of_the_same_conversations_are_other_data(own_model, monkeypatch, capsys):
    monkeypatch.chdir(own_model)
    [template] = [*own_model.glob("model/chat_template.jinja")]
    before = template.read_text()
    template.write_text(before.replace("message['content']", "message['content'] + ' '"))
    try:
        from sft.models.tokenizers import load_tokenizer

        load_tokenizer.cache_clear()
        assert reproduce.main(["run"]) == 2
        said = capsys.readouterr().err
        assert "the batch of step 0" in said and "became other tokens" in said
    finally:
        template.write_text(before)
        load_tokenizer.cache_clear()


def test_a_models_weights_that_were_trained_since_are_told(own_model, monkeypatch, capsys):
    monkeypatch.chdir(own_model)
    weights = own_model / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    try:
        assert reproduce.main(["run", "--tolerance", "9"]) == 0
        assert "the model's files: model.safetensors changed" in capsys.readouterr().out
    finally:
        weights.write_bytes(before)


def test_a_run_is_not_resumed_on_other_data(own_model, tmp_path, monkeypatch):
    from sft import resume
    from sft.errors import BadInput

    monkeypatch.chdir(own_model)
    shutil.copytree("run", "stopped")
    file = own_model / "stopped" / "run.json"
    facts = json.loads(file.read_text()) | {"status": "KILLED", "digest": "f" * 32}
    file.write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="began on other data"):
        resume.resume("stopped")
    assert json.loads(file.read_text())["status"] == "KILLED"


def test_a_large_file_is_told_from_one_of_other_weights(tmp_path):
    size = fingerprints.BLOCK * fingerprints.BLOCKS * 3
    for name, byte in (("one", b"a"), ("same", b"a"), ("other", b"b")):
        (tmp_path / name).write_bytes(byte * size)
    (tmp_path / "longer").write_bytes(b"a" * (size + 1))
    digests = fingerprints.files(tmp_path)
    assert digests["one"] == digests["same"]
    assert len({digests["one"], digests["other"], digests["longer"]}) == 3


FACTS = {
    "git": None,
    "harness": "a",
    "packages": {"torch": "2"},
    "platform": {"cpu": "x"},
    "model": {"config.json": "1"},
}


@pytest.mark.parametrize(
    "then, local, unseen",
    [
        ({}, True, "the commit: there is no git repository"),
        ({"harness": None}, True, "the harness's code"),
        ({"packages": {}}, True, "packages"),
        ({"model": None}, True, "the model's files"),
        ({}, False, "the service's machine"),
        ({"git": {"commit": "c", "untracked": ["helpers.py"]}}, True, "helpers.py"),
    ],
)
def test_what_nobody_looked_at_is_named_and_not_said_to_be_the_same(then, local, unseen):
    now = FACTS | {"git": then.get("git")}
    seen = surroundings(FACTS | then, now, local=local)
    assert any(line.startswith(unseen) or unseen in line for line in seen.unseen)
    assert not any(unseen in line for line in seen.same)


def test_the_files_beside_a_builder_are_part_of_its_code(tmp_path, monkeypatch):
    import importlib

    (tmp_path / "own_helper.py").write_text("WORDS = 'one'\n")
    (tmp_path / "own_builder.py").write_text("import own_helper\n\nclass Mine: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    builder = importlib.import_module("own_builder").Mine()
    before = fingerprints.code_of(builder)
    assert set(before) == {"own_builder", "own_helper"}
    (tmp_path / "own_helper.py").write_text("WORDS = 'two'\n")
    after = fingerprints.code_of(builder)
    assert {name for name in after if after[name] != before[name]} == {"own_helper"}
