"""Mixtures on the command line, in files of ones own and in the saved config."""

import json

import pytest

from sft.config.compose import compose
from sft.config.saved import directed, from_saved, from_train, to_saved, to_train
from sft.data.mixing.named_sets import named
from sft.errors import BadInput
from sft.files import dump_yaml, read_yaml
from sft.past.trust import check_untrusted
from sft.preview import main as preview


def test_a_saved_mixture_is_plain_data_complete_and_comes_back(settings, tmp_path):
    made = settings("dataset.parts.math.cap=5", "dataset.exhausted=end", "dataset.on_lost=train")
    (tmp_path / "config.yaml").write_text(dump_yaml(to_saved(made)))
    saved = read_yaml(tmp_path / "config.yaml")
    assert from_saved(saved, "config.yaml") == directed(made)
    assert saved["dataset"]["parts"]["math"] == {
        "kind": "file", "weight": 1.0, "cap": 5, "train_on_what": None, "on_lost": "train",
        "control_tokens": "as_text", "path": "math.jsonl", "eval_size": 0, "split_seed": 0,
        "layout": "auto", "on_bad_line": "refuse",
    }  # fmt: skip
    assert from_train(to_train(made, "somewhere"))["dataset"] == saved["dataset"]


def test_a_file_of_ones_own_names_parts(tmp_path, files):
    from tests.config.test_conf_files import print_config

    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "both.yaml").write_text(
        "defaults:\n  - keys@_here_: mix\n"
        "parts:\n  math: {path: math.jsonl, weight: 2}\n  faq: {kind: faq}\n"
    )
    words = ["--config-dir", "mine", "dataset=both", "dataset.parts.math.weight=5"]
    assert print_config(*words, cwd=tmp_path)["dataset"]["parts"]["math"]["weight"] == 5


REFUSED = [
    ("dataset.parts.math.kind=fil", r"dataset\.parts\.math\.kind: 'fil' is not one of .*'file'"),
    ("dataset.parts.math.kind=mix", r"dataset\.parts\.math\.kind: 'mix' is not one of"),
    ("dataset.parts.math.wieght=1", r"dataset\.parts\.math\.wieght: .*'dataset\.parts\.math\.w"),
    ("dataset.parts.math.weight=-1", r"dataset\.parts\.math\.weight: -1.* of 0 or more"),
    ("dataset.parts.math.weight=much", r"dataset\.parts\.math\.weight: 'much' is not a number"),
    ("dataset.parts.math.weight=.inf", r"dataset\.parts\.math\.weight: "),
    ("dataset.parts.math.cap=0", r"dataset\.parts\.math\.cap: 0 is not a whole number of 1"),
    ("dataset.parts.math.train_on_what=al", r"dataset\.parts\.math\.train_on_what: 'al' is not"),
    ("dataset.parts.math.eval_sets.x.path=y", r"dataset\.parts\.math\.eval_sets: there is no"),
    ("dataset.parts.math=7", r"dataset\.parts\.math: '7' is not a group of keys"),
    ("dataset.parts.other.weight=1", r"dataset\.parts\.other\.kind: is missing; set dataset"),
    ("dataset.parts.nll.kind=faq", r"dataset\.parts\.nll: is the name of a metric"),
    ("dataset.parts.ALL.kind=faq", r"dataset\.parts\.ALL: is the name of a metric"),
    ("dataset.parts.Math.kind=faq", r"dataset\.parts\.(M|m)ath: both it and .ath would be"),
    ("dataset.parts={2x: {kind: faq}}", r"dataset\.parts: '2x' is no name"),
    ("dataset.eval_sets.math.path=x", r"dataset\.eval_sets\.math: both it and math would be"),
    ("dataset.exhausted=stop", r"dataset\.exhausted: 'stop' is not one of repeat, end"),
    (
        "dataset.path=x",
        r"^dataset\.path: a mixture has no such key; its parts have: dataset\.pa"
        r"rts\.NAME\.path$",
    ),
    ("dataset.eval_size=5", r"^dataset\.eval_size: a mixture .*: dataset\.parts\.NAME\.eval_size$"),
    ("dataset.on_bad_line=skip", r"^dataset\.on_bad_line: a mixture .*NAME\.on_bad_line$"),
    (
        "dataset.parts=[a,b]",
        r"^dataset\.parts: is a list; expected each by name: dataset\.parts\.NAME",
    ),
    ("dataset.part.math.weight=1", r"no such key as dataset\.part; did you mean 'dataset\.parts'"),
]


@pytest.mark.parametrize(("word", "words"), REFUSED, ids=[word for word, _ in REFUSED])
def test_what_is_refused_is_said_with_its_whole_key(settings, word, words):
    with pytest.raises(BadInput, match=words):
        settings(word)


def test_a_mixture_without_parts_or_weights_is_refused(settings):
    with pytest.raises(BadInput, match=r"dataset\.parts: is missing; name the parts"):
        compose(["dataset=mix"])
    with pytest.raises(BadInput, match=r"dataset\.parts: every part has weight 0"):
        settings("dataset.parts.math.weight=0", "dataset.parts.code.weight=0")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("dataset.parts.math.path=no.jsonl", r"^dataset\.parts\.math\.path: .*no\.jsonl"),
        ("dataset.parts.math.eval_size=99", r"^dataset\.parts\.math\.eval_size: 99 conversa"),
        ("dataset.parts.chat.kind=custom", r"dataset\.parts\.chat\.builder: is missing"),
        ("batch_size=41", r"batch_size: 41 is more than the 40 sequences of an epoch"),
    ],
)
def test_what_a_part_cannot_give_is_said_with_its_key(mixed, word, words):
    with pytest.raises(BadInput, match=words):
        mixed(word)


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        (
            "dataset.path: there is no file a/b; for a dataset of the Hub add dataset=hf_chat",
            "KEY.path: there is no file a/b; for a dataset of the Hub add KEY.kind=hf_chat",
        ),
        ("dataset=faq: its package is not installed", "KEY.kind=faq: its package is not installed"),
        ("set dataset.on_lost=train, or more", "KEY: set KEY.on_lost=train, or more"),
        (
            "dataset.path: there is no file dataset.jsonl",
            "KEY.path: there is no file dataset.jsonl",
        ),
        ("the dataset.json.gz and /a/dataset.d", "KEY: the dataset.json.gz and /a/dataset.d"),
        ("cap: X gives batches", "KEY.cap: X gives batches"),
        ("train_on_what: X has no", "KEY.train_on_what: X has no"),
        ("batch_size: 9 is more", "KEY: batch_size: 9 is more"),
    ],
)
def test_a_message_of_a_part_names_its_keys_whole(said, whole):
    def fail():
        raise BadInput(said)

    with pytest.raises(BadInput) as error:
        named("dataset.parts.math", fail)
    assert str(error.value) == whole.replace("KEY", "dataset.parts.math")


def test_a_mixture_from_elsewhere_needs_trust_as_any_data_does(settings):
    saved = to_saved(settings())
    with pytest.raises(BadInput, match=r"dataset\.parts\.code\.path names a place, 'code\.jsonl'"):
        check_untrusted(saved, "a config")
    parts = {"mine": {"kind": "custom", "builder": "os:system", "args": {}}}
    saved["dataset"] = {"kind": "mix", "parts": parts}
    with pytest.raises(BadInput, match=r"dataset\.parts\.mine\.builder would import 'os:system'"):
        check_untrusted(saved, "a config")


def test_the_preview_as_json_names_the_part_of_each_row(settings, files, tiny_model, capsys):
    words = [f"dataset.parts.{name}.path={path.name}" for name, path in files.items()]
    words += ["model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}"]
    assert preview(["--json", "--n", "2", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["part"], row["line"]) for row in rows] == [
        ("code", 1), ("code", 2), ("math", 1), ("math", 2),
    ]  # fmt: skip
