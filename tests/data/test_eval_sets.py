"""Held-out sets by name: what is measured, recorded, and compared when a run is repeated."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from sft import reproduce, train
from sft.config.compose import compose
from sft.config.saved import dataset_builder, from_saved, from_train, to_saved, to_train
from sft.data.mixing.held_out import built
from sft.datasets import EvalSet, FromConversationFileBuilder
from sft.errors import BadInput
from sft.past.trust import check_untrusted
from sft.record import rundir
from sft.run import training
from tests.chat_data import chat, write_chats, write_jsonl
from tests.finished_run import finished_run


def write_set(path, count, word="blue"):
    return write_jsonl(path, [chat(f"{word} {i}?", f"{word} {i}.") for i in range(count)])


@pytest.fixture
def settings(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "chats.jsonl", 24)
    write_set(tmp_path / "easy.jsonl", 3)
    write_set(tmp_path / "hard.jsonl", 5, "white")

    def make(*words, sets=("easy", "hard")):
        paths = [f"dataset.eval_sets.{name}.path={name}.jsonl" for name in sets]
        common = ["model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}"]
        common += ["batch_size=4", "max_length=128", "lora.rank=4", "lr=1e-2"]
        common += ["dataset=file", "dataset.path=chats.jsonl", "evaluators.held_out_answers=0"]
        return compose([*common, *paths, *words])

    return make


@pytest.fixture
def run(settings, local_service, tmp_path):
    def start(name, *words, **more):
        config = to_train(settings(*words, **more), str(tmp_path / name), local_service)
        config = dataclasses.replace(config, model_name="tiny")
        return config, asyncio.run(training.train(config))

    return start


def facts(config):
    return rundir.read_facts(Path(config.log_path))


def test_each_set_has_metrics_of_its_own_beside_the_held_out_part(run):
    config, result = run("run", "dataset.eval_size=4", "max_steps=3")
    assert result.status == "FINISHED", result.error
    prefixes = ("eval", "eval/easy", "eval/hard")
    assert {f"{prefix}/bpb" for prefix in prefixes} <= result.last.keys()
    assert len({result.last[f"{prefix}/nll"] for prefix in prefixes}) == 3
    recorded = facts(config)
    assert recorded["held_out_digest"] and recorded["eval_set_digests"].keys() == {"easy", "hard"}
    assert all(recorded["eval_set_digests"].values())
    assert recorded["eval_set_sequences"].keys() == {"easy", "hard"}


def test_in_place_of_a_held_out_part_eval_nll_is_of_all_sets_together(run):
    config, result = run("run", "max_steps=3")
    held_out = built(config.dataset_builder).held_out
    tokens = {name: part.statistics.trained_tokens for name, part in held_out.parts.items()}
    mean = sum(result.last[f"eval/{name}/nll"] * tokens[name] for name in tokens)
    assert result.last["eval/nll"] == pytest.approx(mean / sum(tokens.values()))
    assert result.best is not None and result.best.evaluation["eval/nll"]
    assert facts(config)["eval_set_digests"].keys() == {"easy", "hard"}


def test_a_mixture_has_sets_beside_its_parts(settings):
    words = ["dataset=mix", "dataset.parts.faq.kind=faq", "dataset.parts.faq.eval_size=2"]
    settings()  # makes the files
    made = compose([*words, "dataset.eval_sets.easy.path=easy.jsonl"])
    found = built(dataset_builder(made))
    assert found.held_out.parts.keys() == {"faq"} and found.eval_sets.keys() == {"easy"}


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ((), 3),
        (("dataset.eval_sets.easy.cap=2",), 2),
        (("dataset.eval_sets.easy.cap=9",), 3),
        (("dataset.eval_sets.easy.kind=hf_chat",), 3),
        (("dataset.eval_sets.easy.kind=hf_chat", "dataset.eval_sets.easy.split='train[:2]'"), 2),
        (("dataset.eval_sets.easy.kind=hf_stream",), 3),
        (("dataset.eval_sets.easy.kind=hf_stream", "dataset.eval_sets.easy.cap=2"), 2),
        (("dataset.eval_sets.easy.kind=hf_stream", "dataset.eval_sets.easy.cap=9"), 3),
    ],
)
def test_a_set_is_all_of_its_data_or_as_much_as_its_cap(settings, words, count):
    found = built(dataset_builder(settings("dataset.eval_size=2", *words)))
    assert found.eval_sets["easy"].statistics.conversations == count


def test_a_set_is_measured_on_what_it_says(settings):
    all_of_it = settings("dataset.eval_size=2", "dataset.eval_sets.easy.train_on_what=all_tokens")
    more = built(dataset_builder(all_of_it)).eval_sets["easy"].statistics
    less = built(dataset_builder(settings("dataset.eval_size=2"))).eval_sets["easy"].statistics
    assert more.trained_tokens > less.trained_tokens


@pytest.mark.parametrize("kind", ["file", "hf_stream"])
def test_what_a_set_holds_is_not_trained_on(settings, tmp_path, kind):
    lines = (tmp_path / "chats.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "easy.jsonl").write_text("".join(lines[:6]))
    words = [f"dataset={kind}"]
    words += ["dataset.steps_per_epoch=20", "dataset.shuffle_buffer=4"] * (kind == "hf_stream")
    found = built(dataset_builder(settings(*words)))
    found.train.set_epoch(0)

    def tokens(data):
        return {
            tuple(datum.model_input.to_ints())
            for index in range(len(data))
            for datum in data.get_batch(index)
        }

    assert not tokens(found.train) & tokens(found.held_out.parts["easy"])
    if kind == "file":
        assert found.train.statistics.duplicates >= 6
        assert found.train.statistics.conversations + found.train.statistics.duplicates == 24


MY_DATA = '''
from dataclasses import dataclass

from sft.datasets import FromConversationFileBuilder


@dataclass
class Mine(FromConversationFileBuilder):
    """Of a file."""
'''


def test_a_builder_of_ones_own_takes_sets_and_can_be_one(settings, tmp_path, monkeypatch):
    (tmp_path / "my_sets.py").write_text(MY_DATA)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ["dataset=custom", "dataset.builder=my_sets:Mine", "dataset.args.path=chats.jsonl"]
    own = ["kind=custom", "builder=my_sets:Mine", "args.path=hard.jsonl"]
    common = ["model=folder", "model.name=tiny", f"model.tokenizer={settings().model.tokenizer}"]
    words = [*common, *mine, *(f"dataset.eval_sets.hard.{word}" for word in own), "batch_size=4"]
    made = compose([*words, "dataset.eval_sets.easy.path=easy.jsonl", "dataset.args.eval_size=2"])
    found = built(dataset_builder(made))
    assert {name: len(d.rows) for name, d in found.eval_sets.items()} == {"easy": 3, "hard": 5}
    saved = to_saved(made)
    again = from_train(to_train(made, "somewhere"))["dataset"]
    assert again["eval_sets"]["easy"] == saved["dataset"]["eval_sets"]["easy"]
    assert again["builder"] == "my_sets:Mine" and "eval_sets" not in again["args"]


def test_sets_from_python(settings, tiny_model):
    from sft.types import ChatDatasetBuilderCommonConfig

    common = ChatDatasetBuilderCommonConfig(str(tiny_model), batch_size=4)
    sets = {"easy": EvalSet(FromConversationFileBuilder("easy.jsonl", common_config=common))}
    builder = FromConversationFileBuilder("chats.jsonl", common_config=common, eval_sets=sets)
    config = train.Config(log_path="x", model_name="tiny", dataset_builder=builder)
    saved = from_train(config)
    assert saved["dataset"]["eval_sets"]["easy"]["path"] == "easy.jsonl"
    assert to_train(from_saved(saved, "x"), "x").dataset_builder.eval_sets.keys() == {"easy"}


REFUSED = [
    ("dataset.eval_sets.nll.path=x", r"dataset\.eval_sets\.nll: is the name of a metric"),
    ("dataset.eval_sets.answers.path=x", r"dataset\.eval_sets\.answers: is the name of"),
    ("dataset.eval_sets.easy.kind=mix", r"dataset\.eval_sets\.easy\.kind: 'mix' is not one of"),
    ("dataset.eval_sets.easy.eval_size=3", r"eval_sets\.easy\.eval_size: there is no such key"),
    ("dataset.eval_sets.easy.pth=3", r"easy\.pth: .*did you mean 'dataset\.eval_sets\.easy\.path'"),
    ("dataset.eval_sets.easy.cap=0", r"dataset\.eval_sets\.easy\.cap: 0 is not a whole number"),
    ("dataset.eval_sets.other.cap=1", r"dataset\.eval_sets\.other\.kind: is missing"),
    ("dataset.eval_sets.Easy.path=x", r"dataset\.eval_sets\..asy: both it and .asy"),
    ("dataset.eval_set.easy.path=x", r"dataset\.eval_set; did you mean 'dataset\.eval_sets'"),
]


@pytest.mark.parametrize(("word", "words"), REFUSED, ids=[word for word, _ in REFUSED])
def test_what_is_refused_is_said_with_its_whole_key(settings, word, words):
    with pytest.raises(BadInput, match=words):
        settings(word)


def test_a_set_and_a_part_of_one_name_are_refused(settings):
    words = ["dataset=mix", "dataset.parts.easy.kind=faq", "dataset.eval_sets.easy.path=x"]
    with pytest.raises(BadInput, match=r"dataset\.eval_sets\.easy: both it and easy would be"):
        compose(words)


def test_a_set_that_cannot_be_read_is_said_with_its_key(settings):
    with pytest.raises(BadInput, match=r"^dataset\.eval_sets\.easy\.path: .*no\.jsonl"):
        built(dataset_builder(settings("dataset.eval_sets.easy.path=no.jsonl")))


def test_a_set_from_elsewhere_needs_trust(settings):
    with pytest.raises(BadInput, match=r"dataset\.eval_sets\.easy\.path names a place"):
        check_untrusted(to_saved(settings()), "a config")


def test_a_run_is_not_resumed_on_another_set(run, tmp_path):
    run("run", "dataset.eval_size=4", "max_steps=1")
    write_set(tmp_path / "hard.jsonl", 6, "white")
    with pytest.raises(BadInput, match=r"other data \(its digest of the set hard was"):
        run("run", "dataset.eval_size=4", "max_steps=1")


@pytest.mark.slow
def test_a_reproduction_compares_each_set(tmp_path_factory, tiny_model, monkeypatch, capsys):
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "easy.jsonl", 3)
    monkeypatch.chdir(folder)
    more = ["dataset.eval_sets.easy.path=easy.jsonl", "max_steps=2", "tracking.uri=null"]
    finished_run(folder, tiny_model, *more)
    assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    [same] = [line for line in said.splitlines() if "as it was: " in line]
    assert "held-out set easy" in same and "eval/easy/nll" in said
    write_set(folder / "easy.jsonl", 4)
    assert reproduce.main(["run"]) == 2
    said = capsys.readouterr().err
    assert "the data is not the same" in said and "held-out set easy: digest" in said
